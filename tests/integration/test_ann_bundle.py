"""A bundle whose items are searched approximately: export, engine, new and deleted items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_model import NUM_ITEMS, Export, random_requests

from recgpt.bundle import NEIGHBOURS, Bundle
from recgpt.engine import Engine
from recgpt.errors import BundleCorruptError
from recgpt.graphs.export import ONNX, export_bundle
from recgpt.publishing import Publisher
from recgpt.recall.index_ann import IndexKind


def quiet(text: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def bundle(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ann") / "bundle"
    kind = IndexKind.IVF_SQ8
    export_bundle(export.checkpoint, path, ONNX, num_interests=(1,), index_kind=kind, say=quiet)
    return path


def test_the_manifest_says_how_items_are_searched_and_what_is_found(bundle: Path, export: Export) -> None:
    index = Bundle.open(bundle).manifest.index
    assert (index["kind"], index["k"]) == ("ivf_sq8", 100)
    assert index["ann_recall_at_k"] >= 0.97
    assert Bundle.open(export.bundle).manifest.index == {"kind": "flat"}


def test_an_engine_finds_most_of_what_an_exact_one_does(bundle: Path, engine: Engine) -> None:
    requests = random_requests(60)
    with Engine.load(bundle, num_threads=1) as approximate:
        found, expected = approximate.recall_many(requests), engine.recall_many(requests)
    assert [len(one.item_ids) for one in found] == [len(one.item_ids) for one in expected]
    shares = [
        len({*one.item_ids} & {*other.item_ids}) / len(one.item_ids) for one, other in zip(found, expected, strict=True)
    ]
    assert np.mean(shares) > 0.9


def test_new_items_are_found_and_deleted_ones_are_not(bundle: Path, tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "bundles", say=quiet)
    publisher.publish(bundle)
    with Engine.load(publisher.store.path, num_threads=1) as engine:
        best = engine.recall(["i5", "i9"], k=3, quotas=(3,))
        vector = 2 * engine.index.vectors()[int(str(best.item_ids[0])[1:]) - 1]
        publisher.add_items(["new"], vector[None])
        publisher.delete_items([best.item_ids[1]])
        engine.reload()
        now = engine.recall(["i5", "i9"], k=3, quotas=(3,))
        assert engine.index.num_items == NUM_ITEMS
    assert now.item_ids == ("new", best.item_ids[0], best.item_ids[2])


def test_a_damaged_file_is_named(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    opened.copy_to(tmp_path / "copy")
    file = tmp_path / "copy" / NEIGHBOURS
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleCorruptError, match=NEIGHBOURS):
        Engine.load(tmp_path / "copy")
