"""Ranking metrics with one target a user."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recgpt.types import Float32Array, Int64Array


def hit_rate_at_k(ranks: Int64Array, k: int) -> float:
    """Share of targets ranked at k or better.

    Args:
        ranks: (N,) 1-based ranks; 0 for a target that was not found.
        k: cut-off.
    """
    return float(_hits(ranks, k).mean())


def ndcg_at_k(ranks: Int64Array, k: int) -> float:
    """Normalised discounted cumulative gain with one relevant item: the mean of 1 / log2(rank + 1), 0 beyond k.

    Source: Jarvelin and Kekalainen 2002; the ideal gain is 1.

    Args:
        ranks: (N,) 1-based ranks; 0 for a target that was not found.
        k: cut-off.
    """
    gains = np.where(_hits(ranks, k), 1.0 / np.log2(ranks.clip(min=1) + 1.0), 0.0)
    return float(gains.mean())


def target_rank(rows: Int64Array, scores: Float32Array, steps: Int64Array, target: int) -> int:
    """Rank of a target in a recalled list, a tie counted against it.

    Where other items of the target's step have the same score, the target stands last among them. Whether still more of
    them were cut off at the end of the step's part is not to be seen in the list.

    Args:
        rows: (k,) recalled rows, best first in each step.
        scores: (k,) their scores.
        steps: (k,) the step that found each.
        target: row.

    Returns:
        1-based rank, or 0 if it is not in the list.
    """
    found = np.flatnonzero(rows == target)
    if len(found) == 0:
        return 0
    return int(np.flatnonzero((steps == steps[found[0]]) & (scores == scores[found[0]]))[-1]) + 1


def _hits(ranks: Int64Array, k: int) -> NDArray[np.bool_]:
    return (ranks >= 1) & (ranks <= k)
