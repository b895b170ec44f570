from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tiny_model import Export, random_checkpoint

from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.bundle import Bundle
from recgpt.engine import Engine
from recgpt.errors import BundleError, ExportError, OutputError, ParityError
from recgpt.files import sha256
from recgpt.graphs.export import HALF_TOLERANCE, TORCHSCRIPT, GraphFormat, export_bundle, onnx_format
from recgpt.graphs.onnx_writer import Precision, write_onnx
from recgpt.graphs.recall import Graph, ScannedRecall
from recgpt.model.checkpoint import Checkpoint
from recgpt.types import RecallRequest

GRAPHS = ["decode", "interests_1", "interests_2", "interests_6", "prefill", "recall_1", "recall_2"]


def quiet(text: str) -> None:
    """Progress that nobody reads."""


def ready_made(export: Export) -> GraphFormat:
    """ONNX files that were exported before: the exporter's other work, without its seconds of tracing."""
    return GraphFormat(
        name="onnx",
        write=lambda graph, path, digest: shutil.copyfile(export.bundle / path.name, path),
        backend=OnnxRuntimeBackend,
        recalls=True,
    )


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash, hidden ones too."""
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def exported(export: Export, tmp_path: Path) -> Path:
    """A folder with a bundle and a model repository, to be exported over."""
    shutil.copytree(export.bundle, tmp_path / "bundle")
    shutil.copytree(export.repository, tmp_path / "triton_models")
    return tmp_path


def with_weight(name: str, value: float) -> Checkpoint:
    checkpoint = random_checkpoint()
    with torch.no_grad():
        dict(checkpoint.decoder.named_parameters())[name].view(-1)[0] = value
    return checkpoint


def test_a_bundle_says_what_the_checkpoint_was(export: Export) -> None:
    bundle, checkpoint = Bundle.open(export.bundle), export.checkpoint
    model = bundle.manifest.model
    assert (model.num_items, model.num_users, model.max_length) == (300, 10, 20)
    assert (model.hidden_size, model.num_blocks, model.num_heads) == (16, 1, 2)
    assert bundle.manifest.training == checkpoint.training
    assert bundle.manifest.num_interests == (1, 2, 6)
    assert bundle.manifest.recalls == (1, 2)
    assert set(bundle.manifest.files) == {path.name for path in export.bundle.iterdir()} - {"manifest.json"}
    catalogue = bundle.catalogue()
    assert (catalogue.item_ids, catalogue.user_ids) == (checkpoint.item_ids, checkpoint.user_ids)
    np.testing.assert_array_equal(catalogue.popularity, checkpoint.popularity)
    matrix = checkpoint.decoder.item_matrix.detach().numpy()
    np.testing.assert_array_equal(bundle.index().vectors(), matrix[1:])
    rows = checkpoint.examples[1][1].tolist()
    assert bundle.examples()[1].user_id == 400
    assert bundle.examples()[1].history == tuple(f"i{row}" for row in rows)


def test_the_fingerprint_is_pytorchs_first_interest_of_the_first_example(export: Export) -> None:
    user, rows = export.checkpoint.examples[0]
    items = torch.from_numpy(rows)[None]
    with torch.no_grad():
        interest = export.checkpoint.decoder(torch.tensor([user]), items, torch.zeros_like(items))[0, -1].numpy()
    # float32, summed in another order
    np.testing.assert_allclose(Bundle.open(export.bundle).manifest.fingerprint, interest, atol=1e-5)


def test_the_answer_of_the_first_example_is_pytorchs_ranking(export: Export) -> None:
    manifest = Bundle.open(export.bundle).manifest
    scores = export.checkpoint.decoder.item_matrix.detach().numpy() @ np.array(manifest.fingerprint, dtype=np.float32)
    best = sorted(range(1, 301), key=lambda row: -scores[row])[:40]
    assert list(manifest.recalled) == best
    np.testing.assert_allclose(list(manifest.recalled.values()), scores[best], atol=1e-4)


def test_the_graphs_carry_the_hash_of_the_item_matrix(export: Export) -> None:
    expected = Bundle.open(export.bundle).index().digest()
    for name in GRAPHS:
        properties = onnx.load(export.bundle / f"{name}.onnx").metadata_props
        assert {entry.key: entry.value for entry in properties}["item_matrix_sha256"] == expected


def test_graphs_that_scan_are_in_the_bundle_and_in_no_repository(
    export: Export, exported: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recgpt.recall.scan._MIN_ITEMS_PER_FOUND", 100)

    def write(graph: Graph, path: Path, digest: str) -> None:
        if isinstance(graph, ScannedRecall):
            write_onnx(graph, path, metadata={"item_matrix_sha256": digest})
        else:
            shutil.copyfile(export.bundle / path.name, path)

    scanning = replace(ready_made(export), write=write, precision=Precision.INT8)
    folder, repository = exported / "bundle", exported / "triton_models"
    export_bundle(export.checkpoint, folder, scanning, model_repository=repository, say=quiet)
    manifest = Bundle.open(folder).manifest
    assert manifest.recall_scans == manifest.recalls == (1, 2)
    assert {"recall_scan_1.onnx", "recall_scan_2.onnx"} <= set(manifest.files)
    assert sorted(path.name for path in repository.iterdir()) == [*GRAPHS, "recall_engine"]
    requests = [RecallRequest(history=[f"i{row}"], k=3, quotas=(2, 1)) for row in range(1, 30)]
    with Engine.load(folder, num_threads=1) as scans:
        for expected, found in zip(engine.recall_many(requests), scans.recall_many(requests), strict=True):
            assert found.item_ids == expected.item_ids


def test_the_model_repository_holds_the_same_graphs_in_the_bundles_version(export: Export) -> None:
    version = str(Bundle.open(export.bundle).manifest.version)
    assert sorted(path.name for path in export.repository.iterdir()) == [*GRAPHS, "recall_engine"]
    for name in GRAPHS:
        assert sorted(path.name for path in (export.repository / name).iterdir()) == sorted(
            [version, "config.pbtxt", "configs"]
        )
        assert sha256(export.repository / name / version / "model.onnx") == sha256(export.bundle / f"{name}.onnx")
    engine = export.repository / "recall_engine" / version
    assert contents(engine / "bundle") == contents(export.bundle)
    assert sorted(path.name for path in engine.iterdir()) == ["bundle", "model.py"]


def test_parity_is_printed(export: Export) -> None:
    for tensor in ("prefill/interest", "decode/present_key_values", "interests_2/interests", "recall_2/scores"):
        assert tensor in export.printed
    assert "generated items that agree" in export.printed
    assert "top-10 lists that agree" in export.printed


def test_a_second_export_replaces_the_first_and_its_version_is_higher(export: Export, exported: Path) -> None:
    out, repository = exported / "bundle", exported / "triton_models"
    first = Bundle.open(out).manifest.version
    versions = []
    for _ in range(2):  # within the same second, too
        export_bundle(export.checkpoint, out, ready_made(export), model_repository=repository, say=quiet)
        versions.append(Bundle.open(out).manifest.version)
    assert first < versions[0] < versions[1]
    assert sorted(path.name for path in exported.iterdir()) == ["bundle", "triton_models"]
    for name in GRAPHS:
        assert sorted(path.name for path in (repository / name).iterdir()) == [
            str(versions[1]),
            "config.pbtxt",
            "configs",
        ]


def test_another_format_replaces_the_whole_bundle(exported: Path) -> None:
    checkpoint = random_checkpoint(seed=1)
    export_bundle(checkpoint, exported / "bundle", TORCHSCRIPT, num_interests=(2,), say=quiet)
    bundle = Bundle.open(exported / "bundle")
    assert sorted(path.name for path in bundle.graphs().values()) == ["decode.pt", "interests_2.pt", "prefill.pt"]
    assert not list(bundle.path.glob("*.onnx"))
    np.testing.assert_array_equal(bundle.index().vectors(), checkpoint.decoder.item_matrix.detach().numpy()[1:])
    with pytest.raises(BundleError, match="torchscript.*export/to_onnx.py"):
        Engine.load(bundle.path)


def test_a_parity_failure_leaves_the_previous_export_untouched(export: Export, exported: Path) -> None:
    before = contents(exported)
    other = random_checkpoint(seed=1)  # the files that are written hold another model's weights
    with pytest.raises(ParityError, match="differs from PyTorch"):
        export_bundle(
            other,
            exported / "bundle",
            ready_made(export),
            model_repository=exported / "triton_models",
            num_interests=(2,),
            say=quiet,
        )
    assert contents(exported) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["item_embedding.weight", "blocks.0.query.weight", "user_embedding.weight"])
def test_a_weight_that_is_not_finite_is_named_and_nothing_is_written(
    tmp_path: Path, exported: Path, name: str, value: float
) -> None:
    before = contents(exported)
    with pytest.raises(ExportError, match=name):
        export_bundle(with_weight(name, value), exported / "bundle", TORCHSCRIPT, say=quiet)
    assert contents(exported) == before


def test_an_output_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    said: list[str] = []
    with pytest.raises(OutputError, match="cannot write"):
        export_bundle(random_checkpoint(), tmp_path / "file" / "bundle", TORCHSCRIPT, say=said.append)
    assert said == []
    assert contents(tmp_path).keys() == {"file"}


def test_a_model_repository_that_cannot_be_written_leaves_the_previous_bundle(export: Export, exported: Path) -> None:
    (exported / "file").write_text("kept")
    before = contents(exported)
    with pytest.raises(OutputError, match="cannot write"):
        export_bundle(
            export.checkpoint,
            exported / "bundle",
            ready_made(export),
            model_repository=exported / "file" / "triton_models",
            num_interests=(2,),
            say=quiet,
        )
    assert contents(exported) == before


def test_a_bundle_of_half_tables_says_so_and_recalls_nearly_the_same(
    export: Export, engine: Engine, tmp_path: Path
) -> None:
    report = export_bundle(
        export.checkpoint, tmp_path / "half", onnx_format(Precision.FLOAT16), num_interests=(2,), say=quiet
    )
    bundle = Bundle.open(tmp_path / "half")
    assert bundle.manifest.dtype == "float16"
    # Random weights lie closer together than trained ones; a list of ten near-ties may change.
    assert report.top_k_agreement > 0.8
    assert 0 < max(report.differences.values()) < HALF_TOLERANCE
    with Engine.load(bundle.path, num_threads=1) as half:
        for example in bundle.examples():
            found = half.recall(example.history, k=10, quotas=(9, 1))
            expected = engine.recall(example.history, k=10, quotas=(9, 1))
            assert len(set(found.item_ids) & set(expected.item_ids)) >= 8
            np.testing.assert_allclose(found.scores[:5], expected.scores[:5], rtol=0.01)


def test_files_that_no_export_wrote_are_never_removed(exported: Path) -> None:
    run = exported / "run"
    run.mkdir()
    (run / "ckpt.pt").write_text("days of training")
    (exported / "bundle" / "notes.txt").write_text("kept")
    before = contents(exported)
    for folder, name in ((run, "ckpt.pt"), (exported / "bundle", "notes.txt")):
        with pytest.raises(OutputError, match=f"{folder} holds {name}"):
            export_bundle(random_checkpoint(), folder, TORCHSCRIPT, say=quiet)
    assert contents(exported) == before


def test_a_bundle_with_a_damaged_manifest_is_not_taken_for_ours(exported: Path) -> None:
    (exported / "bundle" / "manifest.json").write_text("{")
    before = contents(exported)
    with pytest.raises(OutputError, match="empty this one"):
        export_bundle(random_checkpoint(), exported / "bundle", TORCHSCRIPT, say=quiet)
    assert contents(exported) == before


def test_an_empty_folder_may_become_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    export_bundle(random_checkpoint(), tmp_path / "bundle", TORCHSCRIPT, num_interests=(2,), say=quiet)
    assert Bundle.open(tmp_path / "bundle").manifest.graph_format == "torchscript"


@pytest.mark.parametrize("num_interests", [(), (2, 21), (0,)])
def test_interests_that_do_not_fit_the_window_are_refused(tmp_path: Path, num_interests: tuple[int, ...]) -> None:
    with pytest.raises(ExportError, match="from 1 to 20"):
        export_bundle(random_checkpoint(), tmp_path / "out", TORCHSCRIPT, num_interests=num_interests, say=quiet)
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_is_not_changed_by_its_export(tmp_path: Path) -> None:
    checkpoint = random_checkpoint()
    before = copy.deepcopy(checkpoint.decoder.state_dict())
    training = replace(checkpoint.training)
    export_bundle(checkpoint, tmp_path / "out", TORCHSCRIPT, num_interests=(2,), say=quiet)
    after = checkpoint.decoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert checkpoint.training == training


def test_a_file_in_the_place_of_the_bundle_leaves_the_served_models(export: Export, exported: Path) -> None:
    taken = exported / "file"
    taken.write_text("mine")
    before = contents(exported)
    with pytest.raises(OutputError, match="is no folder"):
        export_bundle(
            export.checkpoint, taken, ready_made(export), model_repository=exported / "triton_models", say=quiet
        )
    assert contents(exported) == before
