from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from recgpt.recall.index import ItemIndex
from recgpt.recall.index_scan import ItemScan, best_of_pairs
from recgpt.recall.onnx_bytes import Node, Tensor, write_graph

# Enough of both for the index to scan: 20 queries x 5,000 items.
NUM_ITEMS, NUM_QUERIES = 5000, 20


def unit_vectors(number: int, size: int = 24, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((number, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(number: int, spread: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = unit_vectors(20, seed=seed)
    vectors = centres[rng.integers(20, size=number)] + spread * rng.standard_normal((number, 24))
    return vectors.astype(np.float32)


def with_padding(vectors: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full((1, vectors.shape[1]), 9, dtype=np.float32), vectors])


def assert_best(
    vectors: np.ndarray, queries: np.ndarray, k: int, rows: np.ndarray, scores: np.ndarray, excluded: np.ndarray
) -> None:
    """Against products in float64: nothing clearly better is missing, and all comes in order."""
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    for query, listed in enumerate(excluded):
        exact[query, listed[listed > 0] - 1] = -np.inf
    best = -np.sort(-exact, axis=1)[:, :k]
    # float32 sums of 24 products, in another order, of vectors up to ten times as long as units
    np.testing.assert_allclose(scores, best, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(exact, rows - 1, axis=1), best, atol=1e-5)
    assert all(len(set(found)) == k for found in rows.tolist())
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("spread", [0.5, 0.05, 0.001], ids=["loose", "tight", "nearly equal"])
@pytest.mark.parametrize("k", [1, 10, 39])
def test_the_scan_misses_nothing_however_close_the_items_are(spread: float, k: int) -> None:
    vectors = clustered(NUM_ITEMS, spread)
    queries = clustered(NUM_QUERIES, spread, seed=1)
    rng = np.random.default_rng(2)
    excluded = rng.integers(0, NUM_ITEMS + 1, (NUM_QUERIES, 30))
    rows, scores = ItemIndex.build(with_padding(vectors)).search(queries, k, excluded=excluded)
    assert_best(vectors, queries, k, rows, scores, excluded)


def test_vectors_rounded_in_parts_are_found_as_if_rounded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = clustered(NUM_ITEMS, 0.05), clustered(NUM_QUERIES, 0.05, seed=1)
    at_once = ItemScan(vectors, num_threads=1)
    monkeypatch.setattr("recgpt.recall.scan._ROUNDED", 999)
    in_parts = ItemScan(vectors, num_threads=1)
    none = np.full((NUM_QUERIES, 1), NUM_ITEMS)
    found, again = at_once.search(queries, 10, none), in_parts.search(queries, 10, none)
    assert found is not None and again is not None
    for expected, actual in zip(found, again, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_vectors_of_very_different_lengths() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_vectors(NUM_ITEMS) * rng.lognormal(sigma=0.7, size=(NUM_ITEMS, 1)).astype(np.float32)
    queries = unit_vectors(NUM_QUERIES, seed=1) * np.logspace(-3, 1, NUM_QUERIES, dtype=np.float32)[:, None]
    rows, scores = ItemIndex.build(with_padding(vectors)).search(queries, 10)
    assert_best(vectors, queries, 10, rows, scores, np.zeros((NUM_QUERIES, 1), dtype=np.int64))


def test_the_scan_answers_for_usual_vectors_and_refuses_where_it_cannot_tell_items_apart() -> None:
    nothing = np.full((NUM_QUERIES, 1), NUM_ITEMS)
    queries = unit_vectors(NUM_QUERIES, seed=1)
    assert ItemScan(unit_vectors(NUM_ITEMS), num_threads=1).search(queries, 10, nothing) is not None
    one_long = unit_vectors(NUM_ITEMS)
    one_long[7] *= 1000
    assert ItemScan(one_long, num_threads=1).search(queries, 10, nothing) is None


def test_equal_vectors_come_in_row_order_through_the_scan() -> None:
    vectors = np.repeat(unit_vectors(1000), 5, axis=0)
    queries = unit_vectors(NUM_QUERIES, seed=1)
    found = ItemScan(vectors, num_threads=1).search(queries, 15, np.full((NUM_QUERIES, 1), len(vectors)))
    assert found is not None
    groups = found[0].reshape(NUM_QUERIES, 3, 5)
    np.testing.assert_array_equal(groups - groups[:, :, :1], np.broadcast_to(np.arange(5), groups.shape))
    assert (groups[:, :, 0] % 5 == 0).all()


def test_negative_scores_and_an_incomplete_last_block() -> None:
    # All products are negative, so the columns that fill the last block up, with products of 0, would be the best.
    vectors = -np.abs(unit_vectors(NUM_ITEMS))
    queries = np.abs(unit_vectors(NUM_QUERIES, seed=1))
    rows, scores = ItemIndex.build(with_padding(vectors)).search(queries, 20)
    assert_best(vectors, queries, 20, rows, scores, np.zeros((NUM_QUERIES, 1), dtype=np.int64))


@pytest.mark.parametrize("num_items", [40, NUM_ITEMS], ids=["by Faiss", "by scan"])
def test_excluded_rows_come_last(num_items: int) -> None:
    vectors, queries = unit_vectors(num_items), unit_vectors(NUM_QUERIES, seed=1)
    index = ItemIndex.build(with_padding(vectors))
    excluded = np.zeros((NUM_QUERIES, num_items - 5), dtype=np.int64)
    excluded[3] = np.arange(6, num_items + 1)  # leaves 1..5
    excluded[5, :2] = index.search(queries[5:6], 2)[0]
    rows, scores = index.search(queries, 10, excluded=excluded)
    assert sorted(rows[3, :5].tolist()) == [1, 2, 3, 4, 5]
    assert np.isfinite(scores[3]).tolist() == [True] * 5 + [False] * 5
    np.testing.assert_array_equal(rows[5], index.search(queries[5:6], 12)[0][0, 2:])
    np.testing.assert_array_equal(rows[0], index.search(queries[:1], 10)[0][0])


def test_rows_left_out_may_be_excluded_as_well() -> None:
    vectors, queries = unit_vectors(NUM_ITEMS), unit_vectors(NUM_QUERIES, seed=1)
    gone = [1, 77, NUM_ITEMS]
    index = ItemIndex.build(with_padding(vectors)).without(gone)
    excluded = np.tile(np.array([*gone, 5]), (NUM_QUERIES, 1))
    rows, scores = index.search(queries, 10, excluded=excluded)
    assert_best(vectors, queries, 10, rows, scores, excluded)


def test_a_written_graph_is_onnx_and_computes_what_it_says() -> None:
    matrix = np.arange(300, dtype=np.float32).reshape(2, 150)
    content = write_graph(
        [
            Node("MatMul", ["x", "matrix"], ["products"]),
            Node("ArgMax", ["products"], ["best"], {"axis": 1, "keepdims": 0}),
        ],
        {"matrix": matrix},
        [Tensor("x", "float32", ["N", 2])],
        [Tensor("products", "float32", ["N", 150]), Tensor("best", "int64", ["N"])],
    )
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    x = np.array([[1, 2], [-1, 0], [0, -3]], dtype=np.float32)
    products, best = ReferenceEvaluator(model).run(None, {"x": x})
    np.testing.assert_array_equal(products, x @ matrix)
    np.testing.assert_array_equal(best, [149, 0, 0])


def test_the_file_of_an_index_is_the_same_with_and_without_a_scan(tmp_path: Path) -> None:
    vectors = unit_vectors(NUM_ITEMS)
    ItemIndex.build(with_padding(vectors)).save(tmp_path / "index")
    np.testing.assert_array_equal(ItemIndex.load(tmp_path / "index").vectors(), vectors)


@pytest.mark.parametrize(("num_queries", "num_pairs", "k"), [(3, 40, 10), (40, 50, 50), (5, 900, 10)])
def test_the_best_of_pairs_are_each_querys_own(num_queries: int, num_pairs: int, k: int) -> None:
    rng = np.random.default_rng(num_pairs)
    # Whole numbers, so that sums are exact in any order and many scores are equal.
    vectors = rng.integers(-2, 3, (1000, 8)).astype(np.float32)
    queries = rng.integers(-2, 3, (num_queries, 8)).astype(np.float32)
    lists = [np.sort(rng.choice(1000, num_pairs, replace=False)) for _ in range(num_queries)]
    positions, scores = best_of_pairs(
        vectors, queries, k, np.repeat(np.arange(num_queries), num_pairs), np.concatenate(lists)
    )
    for number, mine in enumerate(lists):
        expected = sorted(mine.tolist(), key=lambda position: (-float(vectors[position] @ queries[number]), position))
        assert positions[number].tolist() == expected[:k]
        assert scores[number].tolist() == [float(vectors[position] @ queries[number]) for position in expected[:k]]
