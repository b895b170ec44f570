"""Quotas: how the lists found by several interests become one. Pure numpy on rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recgpt.types import Float32Array, Int64Array


def default_quotas(k: int, *, prompt_tuned: bool) -> tuple[int, ...]:
    """Quotas where the caller names none: one step, or about a tenth of k from a second one.

    Source: section 5 of the paper; (9, 1) is best at k = 10, and two steps hurt a model that was only pre-trained.
    """
    second = max(1, round(k / 10))
    return (k - second, second) if prompt_tuned and k > 1 else (k,)


def num_to_search(quotas: Sequence[int], num_excluded: int) -> int:
    """How many items each step must look up so that its quota is surely met after the exclusions.

    Step j loses at most the excluded items and what the steps before it took; the last step has the most to skip.
    """
    return sum(quotas) + num_excluded


def merge_by_quotas(
    rows: Int64Array, scores: Float32Array, quotas: Sequence[int], excluded: frozenset[int]
) -> tuple[Int64Array, Float32Array, Int64Array]:
    """Takes each step's best items that are neither excluded nor taken before.

    Source: section 4.4 of the paper (path A, then path B without what A took), for J steps.

    Args:
        rows: (J, N) int64, best first in each step.
        scores: (J, N) float32.
        quotas: J positive numbers.
        excluded: rows never to be taken.

    Returns:
        rows, scores and steps (1-based), each (k,) or shorter where the lists do not hold enough; step by step, in
        score order within a step.
    """
    taken = set(excluded)
    picked: list[tuple[int, int]] = []
    for step, quota in enumerate(quotas):
        wanted = quota
        for position, row in enumerate(rows[step].tolist()):
            if wanted == 0:
                break
            if row not in taken:
                taken.add(row)
                picked.append((step, position))
                wanted -= 1
    steps, positions = np.array(picked, dtype=np.int64).reshape(-1, 2).T
    return rows[steps, positions], scores[steps, positions], steps + 1
