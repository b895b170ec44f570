"""From a checkpoint to a bundle, and from there to a Triton model repository: all of it or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from recgpt.backends.base import ModelSpec, RecallBackend, Tokens
from recgpt.backends.eager import EagerBackend
from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.backends.torchscript import TorchScriptBackend
from recgpt.bundle import (
    INDEX,
    MANIFEST,
    MODEL_CARD,
    NEIGHBOURS,
    Bundle,
    Example,
    Manifest,
    next_version,
    write_catalogue,
    write_manifest,
)
from recgpt.eager import catalogue_of, item_matrix
from recgpt.errors import BundleError, ExportError, OutputError
from recgpt.files import atomic_path
from recgpt.graphs.modules import Decode, Interests, Prefill
from recgpt.graphs.onnx_writer import Precision, write_onnx
from recgpt.graphs.parity import ParityReport, check_parity, random_batches
from recgpt.graphs.recall import Graph, Recall, ScannedRecall
from recgpt.graphs.torchscript_writer import write_torchscript
from recgpt.graphs.tracing import check_finite
from recgpt.model.checkpoint import Checkpoint
from recgpt.model.decoder import Decoder
from recgpt.model_card import read_evaluation, render_card
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import batch_tokens, encode_request
from recgpt.recall.fingerprint import best_recalled, fingerprint, recalled_history
from recgpt.recall.index import ItemIndex, vectors_digest
from recgpt.recall.index_ann import IndexKind
from recgpt.recall.index_fit import fit_neighbours
from recgpt.recall.layout import index_kind_for
from recgpt.recall.scan import most_scanned
from recgpt.serving.engine_files import EngineFiles
from recgpt.serving.repository import add_version, all_versions, held_versions, remove_versions
from recgpt.signature import MAX_RECALLED
from recgpt.types import Float32Array, RecallRequest

# float32 sums in another order: about 1e-6 of values of about 1, with room for deeper models.
TOLERANCE = 1e-4
# float16 holds 11 bits, an error of up to 5e-4 of weights of about 1, with the same room.
HALF_TOLERANCE = 5e-2
PACKAGES = ("recgpt", "torch", "onnx", "onnxscript", "numpy")

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class GraphFormat:
    """A kind of file that graphs are exported to, and what runs it.

    Attributes:
        name: as in the manifest.
        write: writes one graph; the digest of the item matrix goes into the file where the format has room for it.
        backend: loads the files, for the parity check.
        recalls: whether graphs that recall can be written in it.
        precision: of the tables, as in the manifest.
        tolerance: largest difference from PyTorch that the precision can explain.
    """

    name: str
    write: Callable[[Graph, Path, str], None]
    backend: Callable[[Mapping[str, Path], ModelSpec], RecallBackend]
    recalls: bool
    precision: str = Precision.FLOAT32
    tolerance: float = TOLERANCE


def onnx_format(precision: Precision) -> GraphFormat:
    """ONNX files of this precision."""
    return GraphFormat(
        name="onnx",
        write=lambda graph, path, digest: write_onnx(
            graph, path, metadata={"item_matrix_sha256": digest}, precision=precision
        ),
        backend=OnnxRuntimeBackend,
        recalls=True,
        precision=precision.value,
        tolerance=HALF_TOLERANCE if precision is Precision.FLOAT16 else TOLERANCE,
    )


ONNX = onnx_format(Precision.INT8)
TORCHSCRIPT = GraphFormat(
    name="torchscript",
    write=lambda graph, path, digest: write_torchscript(graph, path),
    backend=TorchScriptBackend,
    # Its topk promises no order of equal scores.
    recalls=False,
)


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    graph_format: GraphFormat,
    *,
    model_repository: Path | None = None,
    num_interests: Sequence[int] = (1, 2, 6),
    recalls: Sequence[int] | None = None,
    evaluation: Path | None = None,
    index_kind: IndexKind | None = None,
    say: Say = print,
) -> ParityReport:
    """Writes a bundle, checks it against PyTorch, and fills the model repository.

    Nothing that stood at ``out`` or in ``model_repository`` changes unless everything went well. If the process is
    killed, the former bundle and its version in the repository are there, or the new ones, or both versions.

    Args:
        checkpoint: what to export.
        out: folder of the bundle.
        graph_format: ``ONNX`` or ``TORCHSCRIPT``.
        model_repository: Triton's folder, for ONNX; None leaves Triton out.
        num_interests: the J of each fused graph.
        recalls: the J of each graph that recalls; None takes those of ``num_interests`` up to 2, if the format can.
        evaluation: what ``recgpt evaluate --json`` wrote of this checkpoint, for the model card.
        index_kind: how items are searched; an approximate index is fitted to the checkpoint's example histories. None
            takes an exact one up to half a million items.
        say: told about each step.

    Returns:
        How far the exported graphs and PyTorch agree.

    Raises:
        ExportError: a weight is not finite, or the window has no room for the interests.
        ParityError: the exported graphs and PyTorch disagree.
        DataError: ``evaluation`` is of another model, or something else.
        OutputError: a folder cannot be written.
    """
    decoder = checkpoint.decoder
    metrics = read_evaluation(evaluation, checkpoint.training) if evaluation is not None else {}
    check_finite(decoder)
    if recalls is None:
        recalls = [number for number in num_interests if number <= 2 and graph_format.recalls]
    _check_room(decoder, (*num_interests, *recalls))
    catalogue, matrix = catalogue_of(checkpoint), item_matrix(decoder)
    reference = EagerBackend(decoder, fused=num_interests, recalls=recalls)
    manifest = _describe(checkpoint, reference, graph_format, next_version(_version_at(out)))
    with _replacing(out, model_repository, manifest.version) as folder:
        folder.mkdir()
        graphs = _write_graphs(decoder, manifest, folder, graph_format, say)
        queries = partial(_example_interests, checkpoint, catalogue, reference, max(num_interests))
        manifest = dataclasses.replace(manifest, index=_write_index(matrix, index_kind, queries, folder, say))
        write_catalogue(folder, catalogue, examples_of(checkpoint))
        say("checking parity with PyTorch")
        batches = _parity_batches(checkpoint, catalogue, reference.spec, max([*num_interests, *recalls]))
        with contextlib.closing(graph_format.backend(graphs, reference.spec)) as candidate:
            report = check_parity(reference, candidate, batches, num_interests=num_interests, item_matrix=matrix)
        report.require(graph_format.tolerance)
        num_interactions = int(checkpoint.popularity.sum())
        (folder / MODEL_CARD).write_text(render_card(manifest, num_interactions=num_interactions, evaluation=metrics))
        write_manifest(folder, manifest)
        if model_repository is not None:
            made = Bundle.open(folder)
            add_version(model_repository, made.served_graphs(), manifest.version, engine=EngineFiles.of(made))
    return report


def examples_of(checkpoint: Checkpoint) -> list[Example]:
    """The histories a checkpoint keeps, in the users' own ids."""
    return [
        Example(
            user_id=checkpoint.user_ids.id(user_row),
            history=tuple(checkpoint.item_ids.id(row) for row in rows.tolist()),
        )
        for user_row, rows in checkpoint.examples
    ]


@contextlib.contextmanager
def _replacing(out: Path, model_repository: Path | None, version: int) -> Iterator[Path]:
    """Replaces the bundle by what the block makes, while old and new version stand side by side in the repository."""
    if model_repository is None:
        with atomic_path(out) as folder:
            yield folder
        return
    before = {other for versions in all_versions(model_repository).values() for other in versions}
    try:
        with atomic_path(out) as folder:
            yield folder
    except OutputError:
        if before:
            remove_versions(model_repository, keep=before)
        raise
    remove_versions(model_repository, keep={version, *held_versions(model_repository)})


def _describe(checkpoint: Checkpoint, reference: EagerBackend, graph_format: GraphFormat, version: int) -> Manifest:
    catalogue, matrix = catalogue_of(checkpoint), item_matrix(checkpoint.decoder)
    request = _example_requests(checkpoint)[0]
    history = recalled_history(request.history, max_length=reference.spec.max_length, recalls=reference.recalls)
    newest = dataclasses.replace(request, history=history)
    return Manifest(
        version=version,
        model=reference.spec,
        graph_format=graph_format.name,
        dtype=graph_format.precision,
        num_interests=tuple(sorted(reference.fused)),
        recalls=tuple(sorted(reference.recalls)),
        recall_scans=_recall_scans(reference, graph_format),
        max_recalled=min(MAX_RECALLED, reference.spec.num_items),
        training=checkpoint.training,
        item_matrix_sha256=vectors_digest(matrix[1:]),
        fingerprint=tuple(fingerprint(reference, catalogue, request).tolist()),
        recalled=best_recalled(fingerprint(reference, catalogue, newest), matrix),
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
        files={},
    )


def _recall_scans(reference: EagerBackend, graph_format: GraphFormat) -> tuple[int, ...]:
    """The J for which a graph that scans is faster than one that does not: where a catalogue is not too small."""
    most = most_scanned(reference.spec.num_items) if graph_format.precision == Precision.INT8 else 0
    return tuple(number for number in sorted(reference.recalls) if number <= most)


def _write_graphs(
    decoder: Decoder, manifest: Manifest, folder: Path, graph_format: GraphFormat, say: Say
) -> dict[str, Path]:
    graphs: list[Graph] = [Prefill(decoder), Decode(decoder)]
    graphs += [Interests(decoder, number) for number in manifest.num_interests]
    graphs += [Recall(decoder, number, max_recalled=manifest.max_recalled) for number in manifest.recalls]
    graphs += [ScannedRecall(decoder, number, max_recalled=manifest.max_recalled) for number in manifest.recall_scans]
    paths = {graph.spec.name: folder / manifest.graph_file(graph.spec.name) for graph in graphs}
    for graph in graphs:
        say(f"exporting {graph.spec.name}")
        graph_format.write(graph, paths[graph.spec.name], manifest.item_matrix_sha256)
    return paths


def _write_index(
    matrix: Float32Array, kind: IndexKind | None, queries: Callable[[], Float32Array], folder: Path, say: Say
) -> Mapping[str, Any]:
    """Saves what items are searched by; returns what the manifest says of it.

    Args:
        matrix: (V + 1, D), row 0 no item.
        kind: None takes an exact index up to half a million items.
        queries: gives the interests (N, D) to which an approximate index is fitted.
        folder: of the bundle.
        say: told about each step.
    """
    index = ItemIndex.build(matrix)
    index.save(folder / INDEX)
    kind = kind or index_kind_for(index.num_items, index.size)
    if kind is IndexKind.FLAT:
        return {"kind": str(kind)}
    say(f"building an approximate index, {kind}")
    neighbours, facts = fit_neighbours(index, kind, queries())
    neighbours.save(folder / NEIGHBOURS)
    say(f"it finds {facts['ann_recall_at_k']:.1%} of the exact {facts['k']} best")
    return facts


def _check_room(decoder: Decoder, num_interests: Sequence[int]) -> None:
    window = decoder.config.max_length
    if not num_interests or min(num_interests) < 1 or max(num_interests) > window:
        raise ExportError(
            f"num_interests {tuple(num_interests)}: expected numbers from 1 to {window}, the positions of the window"
        )


def _example_interests(
    checkpoint: Checkpoint, catalogue: Catalogue, backend: RecallBackend, num_interests: int
) -> Float32Array:
    """All interests (N, D) of the histories that the checkpoint keeps."""
    output = backend.interests(_example_tokens(checkpoint, catalogue, backend.spec, num_interests), num_interests)
    return output.interests.reshape(-1, backend.spec.hidden_size)


def _parity_batches(checkpoint: Checkpoint, catalogue: Catalogue, spec: ModelSpec, max_interests: int) -> list[Tokens]:
    """Random histories, and the real ones that the checkpoint keeps."""
    real = _example_tokens(checkpoint, catalogue, spec, max_interests)
    return [*random_batches(spec, max_interests=max_interests), real]


def _example_tokens(checkpoint: Checkpoint, catalogue: Catalogue, spec: ModelSpec, max_interests: int) -> Tokens:
    encoded = [encode_request(request, catalogue, prompt_tuned=False) for request in _example_requests(checkpoint)]
    # One decode is compared even where a single interest is asked for.
    return batch_tokens(encoded, max_history=spec.max_length - max(max_interests - 1, 1))


def _example_requests(checkpoint: Checkpoint) -> list[RecallRequest]:
    return [RecallRequest(history=example.history, user_id=example.user_id) for example in examples_of(checkpoint)]


def _version_at(out: Path) -> int:
    """Version of the bundle that an export to ``out`` replaces, 0 for none; OutputError if it would replace more."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} exists and is no folder; nothing was changed: choose another name for the bundle")
    manifest = None
    with contextlib.suppress(BundleError):
        manifest = Bundle.open(out).manifest
    expected = {MANIFEST, *manifest.files} if manifest is not None else set()
    strangers = sorted({path.name for path in out.iterdir()} - expected) if out.is_dir() else []
    if strangers:
        raise OutputError(
            f"{out} holds {', '.join(strangers[:5])}, which no export is known to have written and a new one would "
            "remove; nothing was changed: choose another folder, or empty this one"
        )
    return manifest.version if manifest is not None else 0
