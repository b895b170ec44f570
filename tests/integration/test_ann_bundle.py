"""A bundle whose items are searched approximately: export, engine, new and deleted items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import NUM_ITEMS, Export, approximate_copy, random_requests

from recgpt.bundle import NEIGHBOURS, Bundle
from recgpt.engine import Engine
from recgpt.errors import BundleCorruptError, ShortfallError
from recgpt.graphs.export import ONNX, export_bundle
from recgpt.publishing import Publisher
from recgpt.recall.index_ann import IndexKind
from recgpt.types import MERGES, RecallRequest


def item_ids(rows: Iterable[int]) -> list[str]:
    return [f"i{row}" for row in rows]


ALL_ITEMS = item_ids(range(1, NUM_ITEMS + 1))


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


@pytest.fixture(scope="module", params=[kind for kind in IndexKind if kind is not IndexKind.FLAT])
def approximate(
    request: pytest.FixtureRequest, export: Export, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """An engine for each kind of approximate index."""
    path = approximate_copy(export.bundle, tmp_path_factory.mktemp("kind") / "bundle", request.param)
    with Engine.load(path, num_threads=1) as engine:
        yield engine


@pytest.mark.parametrize("merge", MERGES)
def test_filters_hold_and_lists_are_full(approximate: Engine, merge: str) -> None:
    rng = np.random.default_rng(4)
    requests, never = [], []
    for num_blocked, num_allowed in ((0, None), (5, None), (280, None), (0, 25), (30, 60), (0, 300)):
        for k, quotas in ((10, (10,)), (10, (6, 4))):
            history = item_ids(rng.integers(1, NUM_ITEMS + 1, 8))
            blocked = item_ids(rng.permutation(NUM_ITEMS)[:num_blocked] + 1)
            allowed = None if num_allowed is None else item_ids(rng.permutation(NUM_ITEMS)[:num_allowed] + 1)
            requests.append(
                RecallRequest(history=history, k=k, quotas=quotas, merge=merge, blocked=blocked, allowed=allowed)
            )
            never.append({*history, *blocked, *({*ALL_ITEMS} - {*(ALL_ITEMS if allowed is None else allowed)})})
    for answers in (approximate.recall_many(requests), [approximate.recall_many([one])[0] for one in requests]):
        for request, answer, gone in zip(requests, answers, never, strict=True):
            assert len({*answer.item_ids}) == len(answer.item_ids) == request.k
            assert not {*answer.item_ids} & gone


@pytest.mark.parametrize(
    ("filters", "available"),
    [
        ({}, NUM_ITEMS - 3),
        ({"filter_seen": False}, NUM_ITEMS),
        ({"blocked": item_ids(range(3, 41))}, NUM_ITEMS - 40),
        ({"allowed": item_ids(range(1, 21))}, 17),
        ({"allowed": item_ids(range(1, 21)), "blocked": item_ids(range(11, 301))}, 7),
    ],
    ids=["seen", "all", "blocked", "allowed", "blocked of the allowed"],
)  # fmt: skip
def test_exactly_what_is_left_can_be_had_and_no_more(
    approximate: Engine, filters: dict[str, Any], available: int
) -> None:
    history = item_ids([1, 2, 3])
    for quotas in ((available,), (1, available - 1)):
        answer = approximate.recall(history, k=available, quotas=quotas, **filters)
        assert len({*answer.item_ids}) == len(answer.item_ids) == available
        with pytest.raises(ShortfallError, match=f"k = {available + 1}") as caught:
            approximate.recall(history, k=available + 1, quotas=(*quotas[:-1], quotas[-1] + 1), **filters)
        assert caught.value.available == available


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
