from __future__ import annotations

import numpy as np
import pytest

from recgpt.bench.catalogues import item_vectors, query_vectors
from recgpt.bench.searchers import SCAN, searchers


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
