from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recgpt.recall.merge import default_quotas, merge_by_quotas, num_to_search

PROPERTIES = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@st.composite
def merges(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, list[int], frozenset[int]]:
    """Full rankings of a small catalogue by up to six interests, and quotas it can meet."""
    num_items = draw(st.integers(1, 25))
    excluded = frozenset(draw(st.sets(st.integers(1, num_items), max_size=num_items - 1)))
    available = num_items - len(excluded)
    num_interests = draw(st.integers(1, min(6, available)))
    k = draw(st.integers(num_interests, available))
    cuts = (
        sorted(draw(st.sets(st.integers(1, k - 1), min_size=num_interests - 1, max_size=num_interests - 1)))
        if (num_interests > 1)
        else []
    )
    quotas = np.diff([0, *cuts, k]).tolist()
    rows = np.array([draw(st.permutations(range(1, num_items + 1))) for _ in quotas], dtype=np.int64)
    scores = -np.arange(num_items, dtype=np.float32) * np.ones((num_interests, 1), dtype=np.float32)
    return rows, scores, quotas, excluded


@given(merges())
@PROPERTIES
def test_every_quota_is_met_by_the_best_new_items(
    case: tuple[np.ndarray, np.ndarray, list[int], frozenset[int]],
) -> None:
    rows, scores, quotas, excluded = case
    found, found_scores, steps = merge_by_quotas(rows, scores, quotas, excluded)
    taken: list[int] = []
    for step, quota in enumerate(quotas):
        new = [row for row in rows[step].tolist() if row not in excluded and row not in taken][:quota]
        assert found[steps == step + 1].tolist() == new
        assert found_scores[steps == step + 1].tolist() == [-float(rows[step].tolist().index(row)) for row in new]
        taken += new
    assert found.tolist() == taken  # the list goes step by step
    assert len(set(taken)) == sum(quotas)
    assert (found.dtype, found_scores.dtype, steps.dtype) == (np.int64, np.float32, np.int64)


@given(merges())
@PROPERTIES
def test_the_search_depth_is_always_enough(case: tuple[np.ndarray, np.ndarray, list[int], frozenset[int]]) -> None:
    rows, scores, quotas, excluded = case
    depth = num_to_search(quotas, len(excluded))
    full = merge_by_quotas(rows, scores, quotas, excluded)
    cut = merge_by_quotas(rows[:, :depth], scores[:, :depth], quotas, excluded)
    assert [part.tolist() for part in cut] == [part.tolist() for part in full]


def test_lists_too_short_give_a_shorter_answer() -> None:
    rows = np.array([[1, 2], [2, 1]], dtype=np.int64)
    found, scores, steps = merge_by_quotas(rows, np.zeros((2, 2), dtype=np.float32), (1, 2), frozenset({1}))
    assert (found.tolist(), steps.tolist(), len(scores)) == ([2], [1], 1)
    nothing, _, _ = merge_by_quotas(rows, np.zeros((2, 2), dtype=np.float32), (1, 1), frozenset({1, 2}))
    assert nothing.tolist() == []


@pytest.mark.parametrize(
    ("k", "expected"), [(1, (1,)), (2, (1, 1)), (5, (4, 1)), (10, (9, 1)), (50, (45, 5)), (100, (90, 10))]
)
def test_default_quotas_give_a_tenth_to_the_second_step(k: int, expected: tuple[int, ...]) -> None:
    assert default_quotas(k, prompt_tuned=True) == expected
    assert default_quotas(k, prompt_tuned=False) == (k,)
