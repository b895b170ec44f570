"""Files that somebody made up, with hashes that are right: what a bundle's author could do to those who open it."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from tiny_model import NUM_ITEMS, Export, approximate_copy

from recgpt.bundle import INDEX, NEIGHBOURS, POPULARITY, Bundle, write_manifest
from recgpt.engine import Engine
from recgpt.errors import BundleError, CheckpointError, RecGPTError
from recgpt.model.checkpoint import load_checkpoint
from recgpt.publishing import Publisher
from recgpt.recall.index_ann import IndexKind, Neighbours


class Code:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def point_outside(path: Path, location: str) -> None:
    """Lets the largest weight of an ONNX file lie in another file."""
    model = onnx.load(path)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (path.parent.parent / "secret").write_bytes(weight.raw_data)
    if location == "link":
        (path.parent / "link").symlink_to("../secret")
    entries = {"location": location, "offset": "0", "length": str(len(weight.raw_data))}
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def as_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Code(path.parent.parent / "ran")))


def as_array_of_objects(path: Path) -> None:
    np.save(path, np.array([Code(path.parent.parent / "ran")], dtype=object), allow_pickle=True)


def as_another_index(path: Path) -> None:
    index = faiss.index_factory(16, "IDMap2,HNSW8", faiss.METRIC_INNER_PRODUCT)
    index.add_with_ids(np.ones((300, 16), dtype=np.float32), np.arange(300))
    faiss.write_index(index, str(path))


def as_a_flat_index(path: Path) -> None:
    faiss.write_index(faiss.IndexFlatIP(16), str(path))


def as_a_narrower_index(path: Path) -> None:
    """With as many vectors."""
    Neighbours.build(IndexKind.HNSW, np.ones((NUM_ITEMS, 8), dtype=np.float32)).save(path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("prefill.onnx", lambda path: point_outside(path, "../secret")),
        ("interests_2.onnx", lambda path: point_outside(path, "link")),
        ("decode.onnx", lambda path: point_outside(path, str(path.parent.parent / "secret"))),
        ("prefill.onnx", as_pickle),
        (INDEX, as_pickle),
        (INDEX, as_another_index),
        (POPULARITY, as_pickle),
        (POPULARITY, as_array_of_objects),
    ],
    ids=[
        "a graph that points outside", "a graph that points through a link", "a graph that points to a path",
        "a pickle for a graph", "a pickle for an index", "an index of another kind", "a pickle for an array",
        "an array of objects",
    ],
)  # fmt: skip
def test_it_is_refused_by_engines_and_never_published(
    export: Export, tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    check_refused(export.bundle, tmp_path, name, spoil)


@pytest.mark.parametrize(
    "spoil",
    [as_pickle, as_another_index, as_a_flat_index, as_a_narrower_index, truncated],
    ids=lambda spoil: spoil.__name__,
)
def test_so_is_what_should_name_candidates(export: Export, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    approximate = approximate_copy(export.bundle, tmp_path / "approximate", IndexKind.IVF_SQ8)
    Engine.load(approximate, num_threads=1).close()  # as it was
    check_refused(approximate, tmp_path, NEIGHBOURS, spoil)


def check_refused(bundle: Path, tmp_path: Path, name: str, spoil: Callable[[Path], None]) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    spoil(folder / name)
    manifest = Bundle.open(folder).manifest
    write_manifest(folder, manifest)  # hashes of what stands there now
    with pytest.raises(BundleError):
        Engine.load(folder, num_threads=1)
    publisher = Publisher(tmp_path / "bundles", model_repository=tmp_path / "models", say=lambda text: None)
    with pytest.raises(RecGPTError):
        publisher.publish(folder)
    assert publisher.store.versions() == []
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "ran").exists()


def test_a_pickle_in_place_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    as_pickle(tmp_path / "folder" / "ckpt.pt")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path / "folder" / "ckpt.pt")
    assert not (tmp_path / "ran").exists()
