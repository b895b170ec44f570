"""Ranking metrics of held-out targets, one a user or a set of them. Knows ranks, not lists or models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recgpt.types import Float32Array, Int64Array

Float64Array = NDArray[np.float64]

NOT_FOUND = 0
NO_TARGET = -1


def hit_rate_at_k(ranks: Int64Array, k: int) -> float:
    """Share of targets ranked at k or better.

    Args:
        ranks: (N,) 1-based ranks; 0 for a target that was not found.
        k: cut-off.
    """
    return float(hits_at_k(ranks, k).mean())


def ndcg_at_k(ranks: Int64Array, k: int) -> float:
    """Normalised discounted cumulative gain with one relevant item: the mean of 1 / log2(rank + 1), 0 beyond k.

    Source: Jarvelin and Kekalainen 2002; the ideal gain is 1.

    Args:
        ranks: (N,) 1-based ranks; 0 for a target that was not found.
        k: cut-off.
    """
    return float(gains_at_k(ranks, k).mean())


def set_recall_at_k(ranks: Int64Array, k: int) -> float:
    """Share of a user's targets ranked at k or better, as a mean over users: with one target each, the hit rate.

    Args:
        ranks: (N, T) 1-based ranks of each user's targets in one list; 0 for a target that was not found, -1 where the
            user has fewer targets. Every user has at least one.
        k: cut-off.
    """
    return float(found_shares_at_k(ranks, k).mean())


def found_shares_at_k(ranks: Int64Array, k: int) -> Float64Array:
    """Share (N,) of each user's targets ranked at k or better; ``ranks`` (N, T) as in ``set_recall_at_k``."""
    shares: Float64Array = hits_at_k(ranks, k).sum(axis=1) / (ranks != NO_TARGET).sum(axis=1)
    return shares


def hits_at_k(ranks: Int64Array, k: int) -> Float64Array:
    """1.0 where a rank is k or better, else 0.0; of any shape."""
    return ((ranks >= 1) & (ranks <= k)).astype(np.float64)


def gains_at_k(ranks: Int64Array, k: int) -> Float64Array:
    """1 / log2(rank + 1) where a rank is k or better, else 0.0; of any shape."""
    gains: Float64Array = hits_at_k(ranks, k) / np.log2(ranks.clip(min=1) + 1.0)
    return gains


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
        return NOT_FOUND
    return int(np.flatnonzero((steps == steps[found[0]]) & (scores == scores[found[0]]))[-1]) + 1


def ann_recall_at_k(found: Int64Array, exact: Int64Array) -> float:
    """Share of the exact answers that an approximate search finds, as a mean over queries.

    Args:
        found: (N, M) rows of the approximate search; 0 where it found none.
        exact: (N, k) rows of the exact search, distinct in each list and above 0.
    """
    shares = [np.isin(rows, listed).mean() for rows, listed in zip(exact, found, strict=True)]
    return float(np.mean(shares))
