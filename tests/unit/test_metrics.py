from __future__ import annotations

import numpy as np
import pytest

from recgpt.metrics import (
    ann_recall_at_k,
    gains_at_k,
    hit_rate_at_k,
    hits_at_k,
    ndcg_at_k,
    set_recall_at_k,
    target_rank,
)


def test_hit_rate_counts_ranks_up_to_k() -> None:
    ranks = np.array([1, 5, 6, 10, 11, 0, 300], dtype=np.int64)
    assert hit_rate_at_k(ranks, 5) == pytest.approx(2 / 7)
    assert hit_rate_at_k(ranks, 10) == pytest.approx(4 / 7)
    assert hit_rate_at_k(np.zeros(3, dtype=np.int64), 10) == 0.0


def test_ndcg_by_hand() -> None:
    # 1 / log2(2) = 1; 1 / log2(3) = 0.63093; 1 / log2(4) = 0.5; nothing for rank 4 and for "not found"
    ranks = np.array([1, 2, 3, 4, 0], dtype=np.int64)
    assert ndcg_at_k(ranks, 3) == pytest.approx((1 + 0.6309297536 + 0.5) / 5)
    assert ndcg_at_k(ranks, 1) == pytest.approx(1 / 5)


def test_metrics_are_means_of_what_each_user_gets() -> None:
    ranks = np.array([[1, 3], [0, 4]], dtype=np.int64)
    assert hits_at_k(ranks, 3).tolist() == [[1, 1], [0, 0]]
    assert gains_at_k(ranks, 3).tolist() == [[1, 0.5], [0, 0]]


def test_set_recall_by_hand() -> None:
    # Two of three; none of three; one of the two distinct ones; the only one.
    ranks = np.array([[1, 0, 10], [11, 0, 0], [4, -1, 12], [-1, 2, -1]], dtype=np.int64)
    assert set_recall_at_k(ranks, 10) == pytest.approx((2 / 3 + 0 + 1 / 2 + 1) / 4)
    assert set_recall_at_k(ranks, 1) == pytest.approx((1 / 3) / 4)


def test_ann_recall_by_hand() -> None:
    exact = np.array([[1, 2, 3, 4], [9, 8, 7, 6]], dtype=np.int64)
    found = np.array([[4, 1, 5, 3], [1, 2, 0, 0]], dtype=np.int64)  # three of four; none
    assert ann_recall_at_k(found, exact) == pytest.approx(3 / 8)
    assert ann_recall_at_k(exact[:, ::-1], exact) == 1.0


def test_set_recall_of_one_target_is_the_hit_rate() -> None:
    ranks = np.array([1, 5, 0, 12], dtype=np.int64)
    assert set_recall_at_k(ranks[:, None], 10) == hit_rate_at_k(ranks, 10) == 0.5


def place(target: int, scores: list[float], steps: list[int]) -> int:
    rows = np.arange(1, len(scores) + 1, dtype=np.int64)
    return target_rank(rows, np.array(scores, dtype=np.float32), np.array(steps, dtype=np.int64), target)


@pytest.mark.parametrize(("target", "rank"), [(1, 1), (2, 2), (4, 4), (9, 0)])
def test_without_ties_the_rank_is_the_place(target: int, rank: int) -> None:
    assert place(target, [9, 8, 7, 6], [1, 1, 1, 1]) == rank


@pytest.mark.parametrize(("target", "rank"), [(1, 1), (2, 4), (3, 4), (4, 4), (5, 5)])
def test_a_tied_target_stands_last_of_its_equals(target: int, rank: int) -> None:
    assert place(target, [9, 8, 8, 8, 7], [1, 1, 1, 1, 1]) == rank


def test_equal_scores_of_different_steps_are_no_tie() -> None:
    assert place(1, [8, 7, 8, 7], [1, 1, 2, 2]) == 1
    assert place(3, [8, 7, 8, 7], [1, 1, 2, 2]) == 3
