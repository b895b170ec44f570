"""Metrics of lists, by hand and by the loops of their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recgpt.list_metrics import (
    catalogue_coverage,
    intra_list_distance,
    mean_popularity,
    new_items_by_step,
    popular_share,
    share_outside,
)

# Distances are of unit vectors made from float32.
ROUNDING = 1e-6

LISTS = np.array([[1, 2, 3], [3, 1, 5]])


def test_distance_by_hand() -> None:
    # Rows 1 and 2 point the same way, row 3 across, row 4 the other way, row 5 nowhere.
    vectors = np.array([[1, 0], [5, 0], [0, 2], [-1, 0], [0, 0]], dtype=np.float32)
    assert intra_list_distance(np.array([[1, 2]]), vectors) == pytest.approx(0.0, abs=ROUNDING)
    assert intra_list_distance(np.array([[1, 3]]), vectors) == pytest.approx(1.0)
    assert intra_list_distance(np.array([[1, 4]]), vectors) == pytest.approx(2.0)
    assert intra_list_distance(np.array([[1, 5]]), vectors) == pytest.approx(1.0)
    assert intra_list_distance(np.array([[1, 2, 3], [1, 3, 4]]), vectors) == pytest.approx((2 / 3 + 4 / 3) / 2)
    assert intra_list_distance(np.array([[1], [2]]), vectors) == 0.0


def test_distance_is_the_mean_over_all_pairs() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 5)).astype(np.float32)
    rows = np.array([rng.permutation(30)[:7] + 1 for _ in range(20)])
    pairs = [
        1 - vectors[a - 1] @ vectors[b - 1] / np.linalg.norm(vectors[a - 1]) / np.linalg.norm(vectors[b - 1])
        for listed in rows.tolist()
        for a, b in itertools.combinations(listed, 2)
    ]
    assert intra_list_distance(rows, vectors) == pytest.approx(np.mean(pairs), rel=ROUNDING)


def test_coverage_counts_distinct_items() -> None:
    assert catalogue_coverage(LISTS, 8) == 4 / 8


def test_popularity_is_the_mean_count() -> None:
    popularity = np.array([0, 10, 4, 1, 9, 2])
    assert mean_popularity(LISTS, popularity) == pytest.approx((15 / 3 + 13 / 3) / 2)


@pytest.mark.parametrize(("share", "expected"), [(0.2, 2 / 6), (0.4, 2 / 6), (0.6, 3 / 6), (1.0, 1.0)])
def test_the_head_is_a_share_of_the_catalogue(share: float, expected: float) -> None:
    popular_rows = np.array([1, 4, 2, 5, 3])
    assert popular_share(LISTS, popular_rows, share=share) == pytest.approx(expected)


def test_an_item_is_new_by_the_first_step_that_brings_it_to_anybody() -> None:
    steps = np.array([[1, 1, 2], [1, 3, 3]])
    assert new_items_by_step(LISTS, steps, 4).tolist() == [3, 0, 1, 0]  # 1, 2, 3; then 5 by step 3


def test_the_share_outside_is_of_the_same_users_list() -> None:
    assert share_outside(LISTS, np.array([[3, 2], [2, 4]])) == pytest.approx((1 + 3) / 6)
    assert share_outside(LISTS, LISTS[:, ::-1]) == 0.0
