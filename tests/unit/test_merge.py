from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recgpt.recall.merge import MERGE_FUNCTIONS, default_quotas, num_to_search
from recgpt.types import MERGES

PROPERTIES = settings(max_examples=300, deadline=None, derandomize=True, database=None)

Case = tuple[np.ndarray, np.ndarray, list[int], frozenset[int]]

# Scores of a fusion are rounded to float32.
ROUNDING = 1e-6


@st.composite
def merges(draw: st.DrawFn) -> Case:
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


def found_by_index(
    rows: np.ndarray, scores: np.ndarray, excluded: frozenset[int], depth: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What an index gives of complete lists: so many, the excluded rows last and with a score of -inf."""
    is_excluded = np.isin(rows, list(excluded))
    order = np.argsort(is_excluded, axis=1, kind="stable")[:, :depth]
    scores = np.where(is_excluded, np.float32(-np.inf), scores)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


def merged(
    merge: str, rows: np.ndarray, scores: np.ndarray, quotas: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, scores and steps of one request."""
    found = MERGE_FUNCTIONS[merge](rows[None], scores[None], np.array([quotas]))
    assert found.ends.tolist() == [len(found.rows)]
    assert (found.rows.dtype, found.scores.dtype, found.steps.dtype) == (np.int64, np.float32, np.int64)
    return found.rows, found.scores, found.steps


@given(merges())
@PROPERTIES
def test_every_quota_is_met_by_the_best_new_items(case: Case) -> None:
    rows, scores, quotas, excluded = case
    found, found_scores, steps = merged("quotas", *found_by_index(rows, scores, excluded), quotas)
    taken: list[int] = []
    for step, quota in enumerate(quotas):
        new = [row for row in rows[step].tolist() if row not in excluded and row not in taken][:quota]
        assert found[steps == step + 1].tolist() == new
        assert found_scores[steps == step + 1].tolist() == [-float(rows[step].tolist().index(row)) for row in new]
        taken += new
    assert found.tolist() == taken  # the list goes step by step
    assert len(set(taken)) == sum(quotas)


@given(merges())
@PROPERTIES
def test_the_search_depth_is_always_enough(case: Case) -> None:
    rows, scores, quotas, excluded = case
    full = merged("quotas", *found_by_index(rows, scores, excluded), quotas)
    cut = merged("quotas", *found_by_index(rows, scores, excluded, num_to_search(sum(quotas))), quotas)
    assert [part.tolist() for part in cut] == [part.tolist() for part in full]


def test_lists_too_short_give_a_shorter_answer() -> None:
    rows, scores = np.array([[1, 2], [2, 1]]), np.zeros((2, 2), dtype=np.float32)
    found, _, steps = merged("quotas", *found_by_index(rows, scores, frozenset({1})), (1, 2))
    assert (found.tolist(), steps.tolist()) == ([2], [1])
    nothing, _, _ = merged("quotas", *found_by_index(rows, scores, frozenset({1, 2})), (1, 1))
    assert nothing.tolist() == []


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("num_items", [12, 300])
def test_requests_together_get_what_each_gets_alone(merge: str, num_items: int) -> None:
    rng = np.random.default_rng(1)
    quotas = np.array([[9, 1], [3, 3], [1, 9], [2, 2]])
    rows = np.array([[rng.permutation(num_items) + 1 for _ in range(2)] for _ in quotas])
    scores = -np.sort(-rng.normal(size=rows.shape).astype(np.float32))
    scores[3, :, 3:] = -np.inf  # this one's lists hold too little
    together = MERGE_FUNCTIONS[merge](rows, scores, quotas)
    starts = [0, *together.ends.tolist()]
    for place in range(len(quotas)):
        part = slice(starts[place], starts[place + 1])
        alone = merged(merge, rows[place], scores[place], quotas[place])
        found = (together.rows[part], together.scores[part], together.steps[part])
        assert [values.tolist() for values in found] == [values.tolist() for values in alone]


@pytest.mark.parametrize(
    ("k", "expected"), [(1, (1,)), (2, (1, 1)), (5, (4, 1)), (10, (9, 1)), (50, (45, 5)), (100, (90, 10))]
)
def test_default_quotas_give_a_tenth_to_the_second_step(k: int, expected: tuple[int, ...]) -> None:
    assert default_quotas(k, prompt_tuned=True) == expected
    assert default_quotas(k, prompt_tuned=False) == (k,)


@st.composite
def merges_with_ties(draw: st.DrawFn) -> Case:
    """As ``merges``, but with whole scores that many items share, the lower row first."""
    rows, _, quotas, excluded = draw(merges())
    num_items = rows.shape[1]
    scores = np.array([draw(st.lists(st.integers(-4, 4), min_size=num_items, max_size=num_items)) for _ in quotas])
    order = np.lexsort((np.broadcast_to(np.arange(num_items), scores.shape), -scores), axis=1)
    return order + 1, np.take_along_axis(scores, order, axis=1).astype(np.float32), quotas, excluded


def parts_by_hand(merge: str, found: dict[int, float]) -> dict[int, float]:
    """Part of each item in one step, of the step's unseen items and their scores."""
    if merge == "probability":
        total = sum(math.exp(score) for score in found.values())
        return {row: math.exp(score) / total for row, score in found.items()}
    ranks = {row: 1 + sum(other > score for other in found.values()) for row, score in found.items()}
    return {row: float(Fraction(1, 60 + rank)) for row, rank in ranks.items()}


@pytest.mark.parametrize("merge", ["probability", "reciprocal_rank"])
@given(case=merges_with_ties())
@PROPERTIES
def test_a_fusion_ranks_the_union_by_the_weighted_sum(merge: str, case: Case) -> None:
    rows, scores, quotas, excluded = case
    k = sum(quotas)
    parts = []
    for step, quota in enumerate(quotas):
        unseen = {row: score for row, score in zip(rows[step], scores[step], strict=True) if row not in excluded}
        by_hand = parts_by_hand(merge, unseen)
        parts.append({row: quota / k * part for row, part in by_hand.items()})
    sums = {row: sum(part[row] for part in parts) for row in parts[0]}
    found, fused, steps = merged(merge, *found_by_index(rows, scores, excluded), quotas)
    assert len(found) == len(set(found.tolist())) == k
    assert not set(found.tolist()) & excluded
    assert fused.tolist() == pytest.approx([sums[row] for row in found.tolist()], rel=ROUNDING)
    for row, step in zip(found.tolist(), steps.tolist(), strict=True):
        assert parts[step - 1][row] == pytest.approx(max(part[row] for part in parts), rel=ROUNDING)
    places = list(zip((-fused).tolist(), steps.tolist(), found.tolist(), strict=True))
    assert places == sorted(places), "best first, then the lower step, then the lower row"
    left_out = [value for row, value in sums.items() if row not in found]
    assert max(left_out, default=0.0) <= fused[-1] * (1 + ROUNDING)


def test_probabilities_by_hand() -> None:
    # Step 1: 1/2, 1/3, 1/6 of items 1, 2, 3; step 2: 3/5, 1/5, 1/5 of items 4, 1, 2. Weights 3/4 and 1/4.
    rows = np.array([[1, 2, 3], [4, 1, 2]])
    scores = np.log(np.array([[3, 2, 1], [3, 1, 1]])).astype(np.float32)
    found, fused, steps = merged("probability", rows, scores, (3, 1))
    assert found.tolist() == [1, 2, 4, 3]
    assert fused.tolist() == pytest.approx([3 / 8 + 1 / 20, 1 / 4 + 1 / 20, 3 / 20, 1 / 8], rel=ROUNDING)
    assert steps.tolist() == [1, 1, 2, 1]


def test_reciprocal_ranks_by_hand() -> None:
    # Item 9 is seen, so item 2 has rank 1 in step 2; items 1 and 2 come second and first, first and second.
    rows, scores = np.array([[1, 2, 3], [9, 2, 1]]), np.array([[3, 2, 1], [3, 2, 1]], dtype=np.float32)
    found, fused, steps = merged("reciprocal_rank", *found_by_index(rows, scores, frozenset({9})), (1, 1))
    assert found.tolist() == [1, 2]  # equals: the one that step 1 brought is first
    assert fused.tolist() == pytest.approx([(1 / 61 + 1 / 62) / 2] * 2, rel=ROUNDING)
    assert steps.tolist() == [1, 2]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("quotas", [(10,), (9, 1), (40, 40, 40)])
def test_searching_deeper_than_needed_changes_nothing(merge: str, quotas: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    rows = np.array([rng.permutation(400) + 1 for _ in quotas])
    scores = np.sort(rng.normal(size=rows.shape).astype(np.float32))[:, ::-1]
    excluded = frozenset(rows[0, :30].tolist())
    full = merged(merge, *found_by_index(rows, scores, excluded), quotas)
    cut = merged(merge, *found_by_index(rows, scores, excluded, num_to_search(sum(quotas), merge=merge)), quotas)
    assert [part.tolist() for part in cut] == [part.tolist() for part in full]


@pytest.mark.parametrize("merge", ["probability", "reciprocal_rank"])
def test_a_fusion_of_lists_too_short_gives_a_shorter_answer(merge: str) -> None:
    rows, scores = np.array([[1, 2], [2, 1]]), np.zeros((2, 2), dtype=np.float32)
    found, _, _ = merged(merge, *found_by_index(rows, scores, frozenset({1})), (1, 2))
    assert found.tolist() == [2]
    nothing, _, _ = merged(merge, *found_by_index(rows, scores, frozenset({1, 2})), (1, 1))
    assert nothing.tolist() == []


@pytest.mark.parametrize("merge", MERGES)
def test_one_step_alone_keeps_its_order_under_every_merge(merge: str) -> None:
    rows, scores = np.array([[4, 2, 3, 1]]), np.array([[5, 4, 4, 1]], dtype=np.float32)
    found, _, steps = merged(merge, rows, scores, (3,))
    assert (found.tolist(), steps.tolist()) == ([4, 2, 3], [1, 1, 1])


def test_every_name_a_request_may_give_has_its_merge() -> None:
    assert tuple(MERGE_FUNCTIONS) == MERGES
