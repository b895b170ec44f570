"""How the lists found by several interests become one, for several requests at once. Pure numpy on rows.

``quotas`` takes each step's best new items. The fusions weigh each step by its quota's share of k and rank the union of
what the steps found by the sum of the weighted parts, so an item that several steps find moves up:

    probability        a step's part is the item's probability: softmax of its score among the step's best unseen items
    reciprocal_rank    a step's part is 1 / (60 + rank of the item in the step)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recgpt.recall.padded import in_same_row
from recgpt.types import Float32Array, Int64Array

Float64Array = NDArray[np.float64]

# A fusion looks at this many items of each step, or at k if that is more. What stands further behind in a step
# weighs too little to bring an item into a usual list.
_MIN_POOL = 100

# Source: Cormack, Clarke and Buettcher 2009, who fixed it once for all collections.
_RANK_OFFSET = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Merged:
    """The lists of B requests, one behind the other, M items in all.

    Attributes:
        rows: (M,) int64.
        scores: (M,) float32.
        steps: (M,) int64, 1-based.
        ends: (B,) int64, where each request's list ends.
    """

    rows: Int64Array
    scores: Float32Array
    steps: Int64Array
    ends: Int64Array


Merge = Callable[[Int64Array, Float32Array, Int64Array], Merged]
"""Of the steps' lists, rows and scores, both (B, J, N), best first in each, a score of -inf for what is no candidate;
and of quotas (B, J), positive. A list has as many items as its quotas sum to, or fewer if the steps' are short.
"""


def default_quotas(k: int, *, prompt_tuned: bool) -> tuple[int, ...]:
    """Quotas where the caller names none: one step, or about a tenth of k from a second one.

    Source: section 5 of the paper; (9, 1) is best at k = 10, and two steps hurt a model that was only pre-trained.
    """
    second = max(1, round(k / 10))
    return (k - second, second) if prompt_tuned and k > 1 else (k,)


def num_to_search(k: int, *, merge: str = "quotas") -> int:
    """How many items that are not excluded each step must look up so that k are surely found.

    By quotas, step j loses at most what the steps before it took; the last step has the most to skip. The fusions need
    their pool.
    """
    return k if merge == "quotas" else _pool_size(k)


def merge_by_quotas(rows: Int64Array, scores: Float32Array, quotas: Int64Array) -> Merged:
    """Takes each step's best items that were not taken before: step by step, in score order within a step.

    Source: section 4.4 of the paper (path A, then path B without what A took), for J steps. Arguments: see ``Merge``.
    """
    taken = taken_by_quotas(rows, scores, quotas)
    ends = taken.sum(axis=(1, 2)).cumsum()
    return Merged(rows=rows[taken], scores=scores[taken], steps=taken.nonzero()[1] + 1, ends=ends)


def taken_by_quotas(rows: Int64Array, scores: Float32Array, quotas: Int64Array) -> NDArray[np.bool_]:
    """Which items ``merge_by_quotas`` takes, (B, J, N); a step's do not depend on the steps behind it."""
    batch, num_interests, _ = rows.shape
    taken = np.zeros(rows.shape, dtype=bool)
    for step in range(num_interests):
        new = scores[:, step] > -np.inf
        if step:
            before = np.where(taken[:, :step], rows[:, :step], 0).reshape(batch, -1)
            new &= ~in_same_row(rows[:, step], before)
        taken[:, step] = new & (new.cumsum(axis=1) <= quotas[:, step, None])
    return taken


def merge_by_probability(rows: Int64Array, scores: Float32Array, quotas: Int64Array) -> Merged:
    """Ranks items by the mixture of the steps' distributions over their next item, weighted by the quotas.

    Best first, the lower step and then the lower row among equals. The scores are the mixture's probabilities; an
    item's step is the one that it owes most to. Arguments: see ``Merge``.

    Source: one round of sampling a step by its quota and an item by its probability, as expected values. The softmax is
    that of the model's cross entropy, but over the pool: an index does not know the sum over the catalogue.
    """
    return _fuse(rows, scores, quotas, _probabilities)


def merge_by_reciprocal_rank(rows: Int64Array, scores: Float32Array, quotas: Int64Array) -> Merged:
    """Ranks items by the weighted sum of 1 / (60 + rank), over the steps that found them.

    As ``merge_by_probability``, the scores being the sums.

    Source: Cormack, Clarke and Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank
    Learning Methods"; equal weights are theirs. Here equal scores share the best of their ranks, so that no item gains
    by its row.
    """
    return _fuse(rows, scores, quotas, _reciprocal_ranks)


MERGE_FUNCTIONS: Mapping[str, Merge] = {
    "quotas": merge_by_quotas,
    "probability": merge_by_probability,
    "reciprocal_rank": merge_by_reciprocal_rank,
}
"""Of each name that a request may give."""


def _fuse(
    rows: Int64Array, scores: Float32Array, quotas: Int64Array, parts_of: Callable[[Float64Array], Float64Array]
) -> Merged:
    lists = [_fuse_one(*request, parts_of) for request in zip(rows, scores, quotas, strict=True)]
    found, fused, steps = (np.concatenate(parts) for parts in zip(*lists, strict=True))
    return Merged(rows=found, scores=fused, steps=steps, ends=np.cumsum([len(listed) for listed, _, _ in lists]))


def _fuse_one(
    rows: Int64Array, scores: Float32Array, quotas: Int64Array, parts_of: Callable[[Float64Array], Float64Array]
) -> tuple[Int64Array, Float32Array, Int64Array]:
    """Rows, scores and steps of one request, of lists (J, N)."""
    k = int(quotas.sum())
    pools = [np.flatnonzero(listed > -np.inf)[: _pool_size(k)] for listed in scores]
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
