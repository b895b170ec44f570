from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recgpt.backends.base import ModelSpec
from recgpt.bundle import Bundle, Example, Manifest, next_version, write_catalogue, write_manifest
from recgpt.data.ids import IdMap
from recgpt.errors import BundleCorruptError, BundleError, BundleMismatchError
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.index import ItemIndex, vectors_digest
from recgpt.training_state import TrainingState

NUM_ITEMS, SIZE = 6, 4
FILES = [
    "decode.onnx",
    "examples.json",
    "ids.json",
    "interests_2.onnx",
    "item_index.faiss",
    "popularity.npy",
    "prefill.onnx",
]


def matrix(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((NUM_ITEMS + 1, SIZE)).astype(np.float32)


def manifest() -> Manifest:
    return Manifest(
        version=20260102030405,
        model=ModelSpec(num_items=NUM_ITEMS, num_users=2, max_length=8, hidden_size=SIZE, num_blocks=1, num_heads=1),
        graph_format="onnx",
        dtype="float32",
        num_interests=(2,),
        training=TrainingState(
            stage="prompt_tuned", num_prompts=1, num_epochs=3, seed=5, data="some.txt", validation={"hr@10": 0.25}
        ),
        item_matrix_sha256=vectors_digest(matrix()[1:]),
        fingerprint=(0.5, -1.25, 3.0, 1e-7),
        recalled={3: 2.5, 1: -0.125},
        packages={"numpy": "1.2.3"},
        files={},
    )


CATALOGUE = Catalogue(
    item_ids=IdMap(["a", "b", "ü", "d", "e", "f"]),
    user_ids=IdMap([2**40, -1]),
    popularity=np.array([0, 5, 4, 9, 9, 0, 1], dtype=np.int64),
)
EXAMPLES = [Example(user_id=-1, history=("a", "ü")), Example(user_id=2**40, history=("f",))]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose graphs are no graphs: what a graph is, is not the bundle's business."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in ("prefill", "decode", "interests_2"):
        (folder / f"{name}.onnx").write_bytes(name.encode())
    ItemIndex.build(matrix()).save(folder / "item_index.faiss")
    write_catalogue(folder, CATALOGUE, EXAMPLES)
    write_manifest(folder, manifest())
    return folder


# What reads each file, and thereby checks it.
READERS: dict[str, Callable[[Bundle], object]] = {
    "prefill.onnx": Bundle.graphs,
    "decode.onnx": Bundle.graphs,
    "interests_2.onnx": Bundle.graphs,
    "item_index.faiss": Bundle.index,
    "ids.json": Bundle.catalogue,
    "popularity.npy": Bundle.catalogue,
    "examples.json": Bundle.examples,
}


def test_everything_comes_back_as_it_was_written(bundle: Path) -> None:
    opened = Bundle.open(str(bundle))
    assert dataclasses.replace(opened.manifest, files={}) == manifest()
    assert sorted(opened.manifest.files) == FILES == sorted(READERS)
    assert {name: path.name for name, path in opened.graphs().items()} == {
        "prefill": "prefill.onnx",
        "decode": "decode.onnx",
        "interests_2": "interests_2.onnx",
    }
    np.testing.assert_array_equal(opened.index().vectors(), matrix()[1:])
    catalogue = opened.catalogue()
    assert (catalogue.item_ids, catalogue.user_ids) == (CATALOGUE.item_ids, CATALOGUE.user_ids)
    np.testing.assert_array_equal(catalogue.popularity, CATALOGUE.popularity)
    assert catalogue.popular_rows.tolist() == [3, 4, 1, 2, 6, 5]
    assert opened.examples() == EXAMPLES


def test_a_manifest_is_json_that_a_person_can_read(bundle: Path) -> None:
    values = json.loads((bundle / "manifest.json").read_text())
    assert values["format"] == 2
    assert values["model"]["num_items"] == NUM_ITEMS
    assert values["training"]["stage"] == "prompt_tuned"
    assert values["files"]["ids.json"]["bytes"] == (bundle / "ids.json").stat().st_size


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_named(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[-1] ^= 1  # same length
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleCorruptError, match=f"{name} is not the file that was exported"):
        READERS[name](Bundle.open(bundle))


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes((bundle / name).read_bytes()[:-1])
    with pytest.raises(BundleCorruptError, match=name):
        READERS[name](Bundle.open(bundle))


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleCorruptError, match=f"{name} is missing"):
        READERS[name](Bundle.open(bundle))


def test_an_index_of_another_export_is_refused_though_its_hash_is_right(bundle: Path) -> None:
    ItemIndex.build(matrix(seed=1)).save(bundle / "item_index.faiss")
    write_manifest(bundle, manifest())
    with pytest.raises(BundleMismatchError, match="item_index.faiss"):
        Bundle.open(bundle).index()


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir, lambda path: path.write_text("a file")])
def test_no_bundle_says_which_command_makes_one(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "nothing"
    make(path)
    with pytest.raises(BundleError, match=rf"python export/to_onnx.py ckpt.pt --out {path}"):
        Bundle.open(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", "{}", '{"format": 1}', '{"format": 2}', '{"format": 2, "model": {}}']
)
def test_a_manifest_that_cannot_be_read_is_named(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest.json is no manifest this version can read"):
        Bundle.open(bundle)


@pytest.mark.parametrize("key", ["version", "model", "training", "files", "fingerprint"])
def test_a_manifest_without_one_of_its_parts_is_refused(bundle: Path, key: str) -> None:
    values = json.loads((bundle / "manifest.json").read_text())
    del values[key]
    (bundle / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match="manifest"):
        Bundle.open(bundle)


def test_versions_are_times_and_always_rise() -> None:
    now = next_version()
    assert len(str(now)) == 14
    assert str(now).startswith("20")
    assert next_version(now + 5) == now + 6
    assert next_version(20200101000000) >= now
