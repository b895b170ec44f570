"""A bundle: everything one export consists of, in one folder, described and hashed by its manifest.

    bundle/
      manifest.json       sizes, training state, version, SHA-256 of every other file
      prefill.onnx  decode.onnx  interests_1.onnx  interests_2.onnx  ..      (or .pt: TorchScript)
      recall_1.onnx  recall_2.onnx  ..    exact recall in one graph
      recall_scan_1.onnx  ..    the same for batches and short lists on a CPU, for no server
      item_index.faiss    the item matrix as a search index
      item_neighbours.faiss    candidates for an approximate search, where one was asked for
      ids.json            item and user ids in row order
      popularity.npy      (V + 1,) int64
      MODEL_CARD.md       data, recipe, quality and limits, for people
      examples.json       a few histories of the training data, for checks and first steps

A folder of bundles with a ``store.json`` (``recgpt.bundle_store``) stands for the one of them that is current.

Reading needs numpy (and Faiss for the index), neither torch nor onnx. Nothing is used before its hash was checked.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recgpt.backends.base import ModelSpec
from recgpt.data.ids import UNKNOWN_ROW, IdMap
from recgpt.errors import BundleCorruptError, BundleError, BundleMismatchError
from recgpt.files import sha256
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.index import ItemIndex, vectors_digest
from recgpt.recall.index_ann import IndexKind, Neighbours
from recgpt.signature import DECODE, MAX_RECALLED, PREFILL, GraphSpec, interests_spec, recall_scan_spec, recall_spec
from recgpt.store_state import StoreState
from recgpt.training_state import TrainingState
from recgpt.types import ItemId, UserId

FORMAT = 2
MANIFEST = "manifest.json"
INDEX = "item_index.faiss"
NEIGHBOURS = "item_neighbours.faiss"
IDS = "ids.json"
POPULARITY = "popularity.npy"
EXAMPLES = "examples.json"
MODEL_CARD = "MODEL_CARD.md"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself.

    Attributes:
        version: number that orders exports, and Triton's model version: UTC time as YYYYMMDDhhmmss.
        model: sizes of the model.
        graph_format: ``onnx`` or ``torchscript``.
        dtype: precision of the graphs' tables, ``float32``, ``float16`` or ``int8``; interests are float32 in any case.
        num_interests: the J of each fused graph.
        training: what the model went through.
        item_matrix_sha256: of the item vectors, (V, D) float32 in row order; graphs and index must carry the same.
        fingerprint: the first interest (D numbers) of the first example, by which a client knows its model again.
        packages: versions that made the export.
        files: name -> {"bytes", "sha256"} of every other file.
        export_version: version of the export that the graphs are of, if items were added since; None for an export.
        index: how items are searched: its ``kind``, and of an approximate one its parameters, effort, and the recall
            against exact search that was measured.
        num_added_items: items behind the model's own, which are recalled but not understood in a history.
        recalls: the J of each graph that recalls; such a graph knows no added items.
        recall_scans: those of them for which there is a graph that recalls by a scan in 8 bits, too.
        max_recalled: the most items that such a graph gives.
        recalled: rows and scores of the best items for the first interest of the first example (as ``recalled_history``
            cuts it), by which a client knows again what recalls on a server.
    """

    version: int
    model: ModelSpec
    graph_format: str
    dtype: str
    num_interests: tuple[int, ...]
    training: TrainingState
    item_matrix_sha256: str
    fingerprint: tuple[float, ...]
    packages: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]
    export_version: int | None = None
    num_added_items: int = 0
    index: Mapping[str, Any] = field(default_factory=lambda: {"kind": str(IndexKind.FLAT)})
    recalls: tuple[int, ...] = ()
    recall_scans: tuple[int, ...] = ()
    max_recalled: int = MAX_RECALLED
    recalled: Mapping[int, float] = field(default_factory=dict)

    @property
    def model_version(self) -> int:
        """Triton's version of the graphs."""
        return self.export_version or self.version

    @property
    def recalls_in_graphs(self) -> bool:
        """Whether one of its graphs can do a whole recall: no graph knows items that were added after the export."""
        return bool(self.recalls) and not self.num_added_items

    def graph_file(self, graph: str) -> str:
        """File name of a graph."""
        return f"{graph}.{'onnx' if self.graph_format == 'onnx' else 'pt'}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain.update(model=dataclasses.asdict(self.model), training=self.training.to_dict())
        return {"format": FORMAT, **plain}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Manifest:
        """The inverse of ``to_dict``; KeyError, TypeError or ValueError if the values are not a manifest's."""
        plain = dict(values)
        if plain.pop("format") != FORMAT:
            raise ValueError(f"format {values['format']!r}, this version reads {FORMAT}")
        plain["model"] = ModelSpec(**plain["model"])
        plain["training"] = TrainingState.from_dict(plain["training"])
        plain["num_interests"] = tuple(plain["num_interests"])
        plain["fingerprint"] = tuple(plain["fingerprint"])
        plain["recalls"] = tuple(plain.get("recalls", ()))
        plain["recall_scans"] = tuple(plain.get("recall_scans", ()))
        plain["recalled"] = {int(row): score for row, score in plain.get("recalled", {}).items()}
        return Manifest(**plain)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A history of the training data, in the users' own ids."""

    user_id: UserId
    history: tuple[ItemId, ...]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An export on disk.

    Attributes:
        path: its folder.
        manifest: what it says of itself.
        deleted: item ids that its store deleted; they are never recalled.
        revision: of the store when it was opened; 0 without a store.
    """

    path: Path
    manifest: Manifest
    deleted: tuple[ItemId, ...] = ()
    revision: int = 0

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Reads a bundle's manifest; the files are checked when they are used.

        Args:
            path: folder of a bundle, or of a store of bundles, which means the current one.

        Raises:
            BundleError: there is no bundle, or its manifest cannot be read.
        """
        path = Path(path)
        state = StoreState.read(path)
        if state is not None:
            if state.current is None:
                raise BundleError(f"{path} holds no published bundle; run: recgpt bundle publish --store {path}")
            path = path / str(state.current)
        else:
            state = StoreState.read(path.parent) or StoreState()
        if not (path / MANIFEST).is_file():
            raise BundleError(
                f"{path} is no bundle: it has no {MANIFEST}; run: python export/to_onnx.py ckpt.pt --out {path}"
            )
        try:
            manifest = Manifest.from_dict(json.loads((path / MANIFEST).read_text()))
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{path / MANIFEST} is no manifest this version can read ({error}); export again"
            ) from error
        return cls(path=path, manifest=manifest, deleted=state.deleted, revision=state.revision)

    @property
    def state(self) -> tuple[int, int]:
        """Version, and revision of the store: what changes when there is something new to take over."""
        return self.manifest.version, self.revision

    def graphs(self) -> dict[str, Path]:
        """The file of each graph of the model by its name in ``recgpt.signature``, checked."""
        return self._graph_files(PREFILL, DECODE, *map(interests_spec, self.manifest.num_interests))

    def recall_graphs(self) -> dict[str, Path]:
        """The file of each graph that recalls by its name, checked; none in bundles of earlier versions."""
        return self._graph_files(*map(recall_spec, self.manifest.recalls))

    def recall_scan_graphs(self) -> dict[str, Path]:
        """The same of the graphs that recall by a scan, which stand in for others in this process."""
        return self._graph_files(*map(recall_scan_spec, self.manifest.recall_scans))

    def served_graphs(self) -> dict[str, Path]:
        """The file of each graph that a server has, checked: all but those that scan, which cannot answer alone."""
        return self.graphs() | self.recall_graphs()

    def catalogue(self) -> Catalogue:
        """Ids and popularity, checked."""
        ids = json.loads(self._checked(IDS).read_text())
        try:
            popularity = np.load(self._checked(POPULARITY), allow_pickle=False)
        except ValueError as error:
            raise BundleCorruptError(
                f"{self.path / POPULARITY}: no array of numbers ({error}); export again"
            ) from error
        item_ids = IdMap(ids["items"])
        return Catalogue(
            item_ids=item_ids,
            user_ids=IdMap(ids["users"]),
            popularity=popularity,
            num_added=self.manifest.num_added_items,
            deleted=frozenset(item_ids.rows(self.deleted).tolist()) - {UNKNOWN_ROW},
        )

    @property
    def is_exact(self) -> bool:
        """Whether its index misses nothing."""
        return bool(self.manifest.index["kind"] == IndexKind.FLAT)

    def index(self, *, num_threads: int | None = None) -> ItemIndex:
        """The item index without the deleted items, checked, the model's vectors against its digest too.

        Args:
            num_threads: of one search with many queries; None takes what OpenMP offers.

        Raises:
            BundleMismatchError: the index holds other vectors than the graphs.
        """
        neighbours = self.neighbours()
        index = ItemIndex.load(self._checked(INDEX), num_threads=num_threads, neighbours=neighbours)
        num_modelled = self.manifest.model.num_items
        num_items = num_modelled + self.manifest.num_added_items
        sizes = {(num_items, index.size)} | {(one.num_items, one.size) for one in (index, neighbours or index)}
        if len(sizes) > 1 or vectors_digest(index.vectors()[:num_modelled]) != self.manifest.item_matrix_sha256:
            raise BundleMismatchError(
                f"{self.path / INDEX} holds other item vectors than the model of this bundle; "
                "export the checkpoint again"
            )
        return index.without(self.catalogue().deleted) if self.deleted else index

    def neighbours(self) -> Neighbours | None:
        """What names candidates of an approximate search, checked; None where the search is exact."""
        if self.is_exact:
            return None
        return Neighbours.load(self._checked(NEIGHBOURS), effort=self.manifest.index["effort"])

    def graph_matrix(self, index: ItemIndex) -> NDArray[Any] | None:
        """The item matrix as this bundle's graphs hold it, so that all of them can use one; None if it must be theirs.

        Args:
            index: what ``index`` gave; graphs of float32 then share its memory.
        """
        matrix = index.item_matrix
        return matrix.astype(np.float16) if matrix is not None and self.manifest.dtype == "float16" else matrix

    def examples(self) -> list[Example]:
        """Histories to try, checked."""
        values = json.loads(self._checked(EXAMPLES).read_text())
        return [Example(user_id=value["user_id"], history=tuple(value["history"])) for value in values]

    def copy_to(self, folder: Path) -> None:
        """Copies manifest and files into a new folder, and nothing else that may lie beside them; checks nothing."""
        folder.mkdir()
        for name in (MANIFEST, *self.manifest.files):
            shutil.copyfile(self.path / name, folder / name)

    def check_files(self) -> None:
        """BundleCorruptError unless every file is the one that was exported."""
        for name in self.manifest.files:
            self._checked(name)

    def _graph_files(self, *graphs: GraphSpec) -> dict[str, Path]:
        return {graph.name: self._checked(self.manifest.graph_file(graph.name)) for graph in graphs}

    def _checked(self, name: str) -> Path:
        path, expected = self.path / name, self.manifest.files.get(name)
        if expected is None or not path.is_file():
            raise BundleCorruptError(f"{path} is missing; export the checkpoint again")
        found = path.stat().st_size
        if found != expected["bytes"] or sha256(path) != expected["sha256"]:
            raise BundleCorruptError(
                f"{path} is not the file that was exported: expected {expected['bytes']} bytes with SHA-256 "
                f"{expected['sha256'][:12]}..., found {found} bytes with another hash; export the checkpoint again"
            )
        return path


def write_catalogue(folder: Path, catalogue: Catalogue, examples: Iterable[Example]) -> None:
    """Writes ids, popularity and examples into a bundle that is being made."""
    ids = {"items": list(catalogue.item_ids.ids), "users": list(catalogue.user_ids.ids)}
    (folder / IDS).write_text(json.dumps(ids))
    np.save(folder / POPULARITY, catalogue.popularity, allow_pickle=False)
    (folder / EXAMPLES).write_text(json.dumps([dataclasses.asdict(example) for example in examples]))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest last, once every other file stands; ``manifest.files`` is filled in here."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    complete = dataclasses.replace(manifest, files=files)
    (folder / MANIFEST).write_text(json.dumps(complete.to_dict(), indent=2) + "\n")


def next_version(previous: int = 0) -> int:
    """A version number for an export made now, above the previous one."""
    return max(int(datetime.now(UTC).strftime("%Y%m%d%H%M%S")), previous + 1)
