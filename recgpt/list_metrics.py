"""What recalled lists are like, whatever the user took next: diverse, broad, popular, brought by which step.

Lists are rows (N, k) int64 of 1..V, distinct within a list; all lists have the same length.
"""

from __future__ import annotations

import numpy as np

from recgpt.types import Float32Array, Int64Array


def intra_list_distance(rows: Int64Array, vectors: Float32Array) -> float:
    """Mean over lists of the mean over pairs of items of 1 - cosine; 0 for lists of one item.

    Source: Smyth and McClave 2001 (diversity of a set), with cosines of item vectors. The sum over pairs follows from
    the length of the summed unit vectors; an item without direction is at distance 1 from all others.

    Args:
        rows: (N, k) lists.
        vectors: (V, D) float32, of rows 1..V.
    """
    k = rows.shape[1]
    if k == 1:
        return 0.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float64)
    total, num_directed = np.zeros((len(rows), units.shape[1])), np.zeros(len(rows))
    for column in rows.T:  # not all at once: N * k * D is large
        total += units[column - 1]
        num_directed += lengths[column - 1, 0] > 0
    cosines = ((total**2).sum(axis=1) - num_directed) / (k * (k - 1))
    return float((1.0 - cosines).mean())


def catalogue_coverage(rows: Int64Array, num_items: int) -> float:
    """Share of the catalogue that is in at least one list.

    Source: Herlocker et al. 2004, section 4.2, of the lists of all evaluated users.

    Args:
        rows: (N, k) lists.
        num_items: V.
    """
    return len(np.unique(rows)) / num_items


def mean_popularity(rows: Int64Array, popularity: Int64Array) -> float:
    """Mean over lists of the mean number of times their items occur in the training data.

    Source: Yin et al. 2012, average recommendation popularity.

    Args:
        rows: (N, k) lists.
        popularity: (V + 1,) int64 by row.
    """
    return float(popularity[rows].mean())


def popular_share(rows: Int64Array, popular_rows: Int64Array, *, share: float = 0.2) -> float:
    """Share of listed items that are among the most popular ones of the catalogue.

    Source: Abdollahpouri et al. 2019, 1 - the average percentage of long-tail items, the head being a share of the
    catalogue.

    Args:
        rows: (N, k) lists.
        popular_rows: (V,) all rows, the most popular first.
        share: how much of the catalogue counts as most popular, rounded to whole items.
    """
    head = popular_rows[: round(share * len(popular_rows))]
    return float(np.isin(rows, head).mean())


def new_items_by_step(rows: Int64Array, steps: Int64Array, num_steps: int) -> Int64Array:
    """How many items of the catalogue each step brought into some list that no step before it brought into any.

    Args:
        rows: (N, k) lists.
        steps: (N, k) the step, 1..J, that brought each item.
        num_steps: J.

    Returns:
        (J,) int64; the sum is the number of distinct items in all lists.
    """
    first = np.full(int(rows.max(initial=0)) + 1, num_steps + 1, dtype=np.int64)
    np.minimum.at(first, rows.ravel(), steps.ravel())
    return np.bincount(first, minlength=num_steps + 2)[1 : num_steps + 1].astype(np.int64)


def share_outside(rows: Int64Array, reference: Int64Array) -> float:
    """Share of listed items that the same user's reference list, such as that of one step, does not hold.

    Args:
        rows: (N, k) lists.
        reference: (N, k') lists of the same users.
    """
    known = np.zeros(rows.shape, dtype=bool)
    for column in reference.T:
        known |= rows == column[:, None]
    return float(1.0 - known.mean())
