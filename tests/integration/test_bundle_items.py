"""Items that come and go between trainings, against brute force over all vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_model import NUM_ITEMS, Export, random_requests

from recgpt.bundle import Bundle
from recgpt.bundle_items import read_new_items
from recgpt.engine import Engine
from recgpt.errors import DataError, QuotaError, ShortfallError
from recgpt.publishing import Publisher
from recgpt.types import ItemId

SIZE = 16
NEW = ["n1", "n2", "n3"]
HISTORY = ["i5", "i9", "i11"]


def quiet(text: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture
def publisher(export: Export, tmp_path: Path) -> Publisher:
    publisher = Publisher(tmp_path / "bundles", say=quiet)
    publisher.publish(export.bundle)
    return publisher


@pytest.fixture
def engine(publisher: Publisher) -> Iterator[Engine]:
    with Engine.load(publisher.store.path, num_threads=1) as engine:
        yield engine


def matrix(export: Export) -> np.ndarray:
    return export.checkpoint.decoder.item_matrix.detach().numpy()[1:]


def interest_of(export: Export, history: Sequence[str]) -> np.ndarray:
    """PyTorch's, for the shared user."""
    import torch

    rows = torch.tensor([[int(item[1:]) for item in history]])
    with torch.no_grad():
        return export.checkpoint.decoder(torch.tensor([0]), rows, torch.zeros_like(rows))[0, -1].numpy()


def vectors_at(export: Export, history: Sequence[str]) -> np.ndarray:
    """One vector a new item: the best of all, a middling one, the worst, for this history."""
    interest = interest_of(export, history)
    return np.stack([10 * interest, 0 * interest, -10 * interest]).astype(np.float32)


def by_hand(export: Export, vectors: np.ndarray, history: Sequence[str], without: set[ItemId]) -> list[ItemId]:
    ids = [f"i{row}" for row in range(1, NUM_ITEMS + 1)] + NEW
    scores = np.concatenate([matrix(export), vectors]) @ interest_of(export, history)
    return [ids[place] for place in np.argsort(-scores, kind="stable") if ids[place] not in without]


def test_new_items_are_recalled_at_their_place(export: Export, publisher: Publisher, engine: Engine) -> None:
    vectors = vectors_at(export, HISTORY)
    publisher.add_items(NEW, vectors)
    assert engine.reload()
    found = engine.recall(HISTORY, k=NUM_ITEMS, quotas=(NUM_ITEMS,))
    expected = by_hand(export, vectors, HISTORY, set(HISTORY))
    assert (found.item_ids[0], found.item_ids[-1]) == ("n1", "n3")
    assert sorted(found.item_ids) == sorted(expected)
    assert list(found.item_ids[:20]) == expected[:20]
    with pytest.raises(ShortfallError) as caught:
        engine.recall(HISTORY, k=NUM_ITEMS + 1)
    assert caught.value.available == NUM_ITEMS


def test_new_items_of_a_history_are_seen_and_counted_and_change_no_interest(
    export: Export, publisher: Publisher, engine: Engine
) -> None:
    vectors = vectors_at(export, HISTORY)
    publisher.add_items(NEW, vectors)
    engine.reload()
    plain, with_new = engine.recall(HISTORY, k=20, quotas=(20,)), engine.recall(["n1", *HISTORY], k=20, quotas=(20,))
    assert with_new.cold_start.num_unknown_items == 1
    assert list(with_new.item_ids) == by_hand(export, vectors, HISTORY, {*HISTORY, "n1"})[:20]
    assert with_new.item_ids[:19] == plain.item_ids[1:]


def test_a_history_of_new_items_only_gets_popular_ones_and_none_it_has_seen(
    export: Export, publisher: Publisher, engine: Engine
) -> None:
    publisher.add_items(NEW, vectors_at(export, HISTORY))
    engine.reload()
    everything = engine.recall(["n2"], k=NUM_ITEMS + 2)
    assert everything.cold_start.popular
    assert everything.cold_start.num_unknown_items == 1
    assert set(everything.item_ids[-2:]) == {"n1", "n3"}
    assert len(set(everything.item_ids)) == NUM_ITEMS + 2


def test_more_items_may_come_later_and_a_rollback_takes_them_back(
    export: Export, publisher: Publisher, engine: Engine
) -> None:
    vectors = vectors_at(export, HISTORY)
    first = publisher.store.state().current
    publisher.add_items(NEW[:1], vectors[:1])
    publisher.add_items(NEW[1:], vectors[1:])
    engine.reload()
    assert engine.bundle.manifest.num_added_items == 3
    assert engine.bundle.manifest.model_version == first
    assert (
        list(engine.recall(HISTORY, k=20, quotas=(20,)).item_ids)
        == by_hand(export, vectors, HISTORY, set(HISTORY))[:20]
    )
    publisher.roll_back()
    engine.reload()
    assert engine.catalogue.item_ids.ids[-1] == "n1"


def test_deleted_items_are_in_no_part_of_any_answer(export: Export, publisher: Publisher, engine: Engine) -> None:
    requests = random_requests(40, seed=5)
    before = engine.recall_many(requests)
    # What was recalled and fed back most is what a broken filter would show.
    deleted = sorted({item for answer in before for item in (*answer.item_ids[:2], *answer.generated_ids)}, key=str)[
        :60
    ]
    assert any(set(answer.generated_ids) & set(deleted) for answer in before)
    publisher.delete_items(deleted)
    assert engine.reload()
    for request, answer in zip(requests, engine.recall_many(requests), strict=True):
        assert len(set(answer.item_ids)) == request.k
        assert not set(deleted) & {*answer.item_ids, *answer.generated_ids}


def test_what_is_left_keeps_its_order_and_the_model_still_knows_deleted_items(
    export: Export, publisher: Publisher, engine: Engine
) -> None:
    nothing = np.zeros((0, SIZE), dtype=np.float32)
    ranked = by_hand(export, nothing, HISTORY, set(HISTORY))
    deleted = {ranked[0], ranked[3], HISTORY[-1]}
    publisher.delete_items(sorted(deleted))
    engine.reload()
    expected = [item for item in ranked if item not in deleted]
    found = engine.recall(HISTORY, k=30, quotas=(30,))
    assert list(found.item_ids) == expected[:30]
    assert found.cold_start.num_unknown_items == 0
    two = engine.recall(HISTORY, k=10, quotas=(9, 1))
    # The item fed back is the best one that may be shown.
    assert two.generated_ids == (expected[0],)
    everything = engine.recall(HISTORY, k=len(expected), quotas=(len(expected),))
    assert sorted(everything.item_ids) == sorted(expected)
    with pytest.raises(ShortfallError) as caught:
        engine.recall(HISTORY, k=len(expected) + 1)
    assert caught.value.available == len(expected)
    popular = engine.recall([], k=NUM_ITEMS - len(deleted))
    assert not deleted & set(popular.item_ids)


def test_deleted_items_come_back_with_no_later_bundle_no_rollback_and_no_addition(
    export: Export, other_bundle: Path, publisher: Publisher, engine: Engine
) -> None:
    publisher.add_items(NEW, vectors_at(export, HISTORY))
    publisher.delete_items(["i1", "n1"])
    with pytest.raises(DataError, match="in the bundle already"):
        publisher.add_items(["n1"], np.ones((1, SIZE), dtype=np.float32))
    publisher.publish(other_bundle)
    with pytest.raises(DataError, match="'n1' was deleted"):
        publisher.add_items(["n1"], np.ones((1, SIZE), dtype=np.float32))
    for _ in range(3):
        engine.reload()
        catalogue = engine.catalogue
        everything = engine.recall(HISTORY, k=catalogue.num_recallable - 3, quotas=(catalogue.num_recallable - 3,))
        assert not {"i1", "n1"} & set(everything.item_ids)
        if publisher.store.state().previous:
            publisher.roll_back()
    # Nor when a version is opened by its own folder.
    with Engine.load(publisher.store.folder(Bundle.open(other_bundle).manifest.version)) as alone:
        assert alone.bundle.deleted == ("i1", "n1")


def test_with_hardly_any_item_of_the_model_left_few_interests_are_possible(
    export: Export, publisher: Publisher, engine: Engine
) -> None:
    publisher.add_items(NEW, vectors_at(export, HISTORY))
    publisher.delete_items([f"i{row}" for row in range(2, NUM_ITEMS + 1)])
    engine.reload()
    assert set(engine.recall(["i5"], k=4, quotas=(3, 1)).item_ids) == {"i1", *NEW}
    with pytest.raises(QuotaError, match="at most 2"):
        engine.recall(["i5"], k=3, quotas=(1, 1, 1))


@pytest.mark.parametrize(
    ("items", "vectors", "said"),
    [
        (["n1"], np.ones((2, SIZE)), r"\(2, 16\) for 1 items"),
        (["n1"], np.ones((1, SIZE + 1)), "expected"),
        ([], np.ones((0, SIZE)), "0 items"),
        (["n1"], np.full((1, SIZE), np.nan), "NaN"),
        (["i3"], np.ones((1, SIZE)), "'i3' is in the bundle already"),
        (["n1", "n1"], np.ones((2, SIZE)), "twice"),
        ([7], np.ones((1, SIZE)), "mixed"),
    ],
)
def test_items_that_are_none_are_refused_and_nothing_changes(
    publisher: Publisher, items: list[ItemId], vectors: np.ndarray, said: str
) -> None:
    before = (publisher.store.state(), publisher.store.versions())
    with pytest.raises(DataError, match=said):
        publisher.add_items(items, vectors.astype(np.float32))
    assert (publisher.store.state(), publisher.store.versions()) == before


def test_new_items_are_read_from_text_and_array(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("7\n8\n")
    np.save(tmp_path / "vectors.npy", np.array([[1.0, 2.0], [3.0, 4.0]]))
    items, vectors = read_new_items(tmp_path / "ids.txt", tmp_path / "vectors.npy", int)
    assert (items, vectors.tolist(), vectors.dtype) == ([7, 8], [[1, 2], [3, 4]], np.float32)
    for name in ("ids.txt", "nothing"):
        with pytest.raises(DataError, match="npy"):
            read_new_items(tmp_path / "ids.txt", tmp_path / name, int)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        read_new_items(tmp_path / "ids.txt", tmp_path / "objects.npy", int)
