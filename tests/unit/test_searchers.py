from __future__ import annotations

import numpy as np
import pytest

from recgpt.bench.catalogues import item_vectors, query_vectors
from recgpt.bench.searchers import SCAN, searchers
from recgpt.bench.topk import TopKIndex


@pytest.mark.parametrize("num_queries", [1, 30])
@pytest.mark.parametrize("k", [1, 15])
def test_all_ways_find_the_best_items_best_first(num_queries: int, k: int) -> None:
    vectors = item_vectors(2003, 16)
    queries = query_vectors(num_queries, 2003, 16)
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    expected = np.argsort(-exact, axis=1)[:, :k]
    ways = searchers(vectors, num_threads=1)
    assert SCAN in ways
    for name, search in ways.items():
        positions, scores = search(queries, k)
        np.testing.assert_array_equal(positions, expected, err_msg=name)
        # float32 sums of 16 products of unit vectors
        np.testing.assert_allclose(scores, np.take_along_axis(exact, expected, axis=1), atol=1e-6, err_msg=name)


def test_topk_leaves_out_the_padding_and_what_is_excluded() -> None:
    vectors, queries = item_vectors(500, 16), query_vectors(3, 500, 16)
    index = TopKIndex.build(np.concatenate([np.zeros_like(vectors[:1]), vectors]), num_threads=1)
    order = np.argsort(-(queries.astype(np.float64) @ vectors.T), axis=1) + 1
    # The best item of the first query, the two best of the last; 0 fills up.
    excluded = np.array([[order[0, 0], 0], [0, 0], [order[2, 1], order[2, 0]]])
    rows, scores = index.search(queries, 5, excluded=excluded)
    np.testing.assert_array_equal(rows, [order[0, 1:6], order[1, :5], order[2, 2:7]])
    exact = (vectors[rows - 1] @ queries[:, :, None])[:, :, 0]
    np.testing.assert_allclose(scores, exact, atol=1e-6)  # float32 sums of 16 products of unit vectors
    few = np.arange(1, 500, 50)
    np.testing.assert_array_equal(
        index.search(queries, 500, few)[0], [[row for row in line if row in few] for line in order]
    )
