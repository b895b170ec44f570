"""How the lists found by several interests become one. Pure numpy on rows.

``quotas`` takes each step's best new items. The fusions weigh each step by its quota's share of k and rank the union of
what the steps found by the sum of the weighted parts, so an item that several steps find moves up:

    probability        a step's part is the item's probability: softmax of its score among the step's best unseen items
    reciprocal_rank    a step's part is 1 / (60 + rank of the item in the step)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from recgpt.types import Float32Array, Int64Array

Float64Array = NDArray[np.float64]
# Of one request: the steps' lists (J, N), best first, rows and scores; the J quotas; rows never to be taken.
# Gives rows, scores and steps (1-based), each (k,), or shorter where the lists do not hold enough.
Merge = Callable[[Int64Array, Float32Array, Sequence[int], frozenset[int]], tuple[Int64Array, Float32Array, Int64Array]]

# A fusion looks at this many unseen items of each step, or at k if that is more. What stands further behind in a step
# weighs too little to bring an item into a usual list.
_MIN_POOL = 100

# Source: Cormack, Clarke and Buettcher 2009, who fixed it once for all collections.
_RANK_OFFSET = 60


def default_quotas(k: int, *, prompt_tuned: bool) -> tuple[int, ...]:
    """Quotas where the caller names none: one step, or about a tenth of k from a second one.

    Source: section 5 of the paper; (9, 1) is best at k = 10, and two steps hurt a model that was only pre-trained.
    """
    second = max(1, round(k / 10))
    return (k - second, second) if prompt_tuned and k > 1 else (k,)


def num_to_search(quotas: Sequence[int], *, merge: str = "quotas") -> int:
    """How many items that are not excluded each step must look up so that k are surely found.

    By quotas, step j loses at most what the steps before it took; the last step has the most to skip. The fusions need
    their pool.
    """
    k = sum(quotas)
    return k if merge == "quotas" else _pool_size(k)


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
    num_found = rows.shape[1]
    taken = set(excluded)
    picked: list[int] = []  # places in the flattened lists
    for step, quota in enumerate(quotas):
        wanted = quota
        for place, row in enumerate(rows[step].tolist(), start=step * num_found):
            if row in taken:
                continue
            taken.add(row)
            picked.append(place)
            wanted -= 1
            if wanted == 0:
                break
    places = np.array(picked, dtype=np.int64)
    return rows.ravel()[places], scores.ravel()[places], places // num_found + 1


def merge_by_probability(
    rows: Int64Array, scores: Float32Array, quotas: Sequence[int], excluded: frozenset[int]
) -> tuple[Int64Array, Float32Array, Int64Array]:
    """Ranks items by the mixture of the steps' distributions over their next item, weighted by the quotas.

    Source: one round of sampling a step by its quota and an item by its probability, as expected values. The softmax is
    that of the model's cross entropy, but over the pool: an index does not know the sum over the catalogue.

    Args:
        rows: (J, N) int64, best first in each step.
        scores: (J, N) float32.
        quotas: J positive numbers; step j weighs m_j / k.
        excluded: rows never to be taken.

    Returns:
        rows, scores (the mixture's probabilities) and steps (1-based, the one that the item owes most to), each (k,) or
        shorter where the lists do not hold enough; best first, the lower step and then the lower row among equals.
    """
    return _fuse(rows, scores, quotas, excluded, _probabilities)


def merge_by_reciprocal_rank(
    rows: Int64Array, scores: Float32Array, quotas: Sequence[int], excluded: frozenset[int]
) -> tuple[Int64Array, Float32Array, Int64Array]:
    """Ranks items by the weighted sum of 1 / (60 + rank), over the steps that found them.

    Source: Cormack, Clarke and Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank
    Learning Methods"; equal weights are theirs. Here equal scores share the best of their ranks, so that no item gains
    by its row.

    Args:
        rows: (J, N) int64, best first in each step.
        scores: (J, N) float32.
        quotas: J positive numbers; step j weighs m_j / k.
        excluded: rows never to be taken.

    Returns:
        As ``merge_by_probability``, the scores being the sums.
    """
    return _fuse(rows, scores, quotas, excluded, _reciprocal_ranks)


MERGE_FUNCTIONS: Mapping[str, Merge] = {
    "quotas": merge_by_quotas,
    "probability": merge_by_probability,
    "reciprocal_rank": merge_by_reciprocal_rank,
}
"""Of each name that a request may give."""


def _fuse(
    rows: Int64Array,
    scores: Float32Array,
    quotas: Sequence[int],
    excluded: frozenset[int],
    parts_of: Callable[[Float64Array], Float64Array],
) -> tuple[Int64Array, Float32Array, Int64Array]:
    k = sum(quotas)
    pools = [np.flatnonzero([row not in excluded for row in listed.tolist()])[: _pool_size(k)] for listed in rows]
    found = np.unique(np.concatenate([rows[step, pool] for step, pool in enumerate(pools)]))
    parts = np.zeros((len(quotas), len(found)))
    for step, pool in enumerate(pools):
        part = parts_of(scores[step, pool].astype(np.float64))
        parts[step, np.searchsorted(found, rows[step, pool])] = quotas[step] / k * part
    fused = parts.sum(axis=0).astype(np.float32)
    steps = parts.argmax(axis=0)
    order = np.lexsort((found, steps, -fused))[:k]
    return found[order], fused[order], steps[order] + 1


def _pool_size(k: int) -> int:
    return max(k, _MIN_POOL)


def _probabilities(scores: Float64Array) -> Float64Array:
    """Softmax of scores (N,), best first."""
    exponentials = np.exp(scores - scores[:1])
    probabilities: Float64Array = exponentials / exponentials.sum()
    return probabilities


def _reciprocal_ranks(scores: Float64Array) -> Float64Array:
    """Of scores (N,), best first."""
    ranks = np.searchsorted(-scores, -scores, side="left") + 1
    return 1.0 / (_RANK_OFFSET + ranks)
