"""The best among some of a flat index's vectors, by the way that is cheapest for their number.

A few are scored one by one. Many are searched by Faiss with a selector. Faiss's GPU indexes take a selector and ignore
it, so there the search fetches more than is asked for and drops what is not among them. Knows positions in an index;
nothing of rows, ids or users.

Source of the last: https://github.com/facebookresearch/faiss/issues/3114
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from recgpt.extras import require
from recgpt.types import Float32Array, Int64Array

Found = tuple[Int64Array, Float32Array]
Find = Callable[[Float32Array, int], Found]
"""The ``fetch`` best of each query (N, D): positions and scores, both (N, fetch), in any order among equals."""

MAX_SCORED = 1024
"""Up to this many are scored one by one: a tenth of the time of a selector over 12 thousand items, and less of more."""


def score_each(index: Any, queries: Float32Array, positions: Int64Array) -> Found:
    """Scores of these positions for every query: both (N, A), in the order given.

    By Faiss's product of two vectors, which is blind to where they stand: equal vectors get equal scores.
    """
    faiss = require("faiss")
    labels = np.ascontiguousarray(np.broadcast_to(positions, (len(queries), len(positions))))
    scores = np.empty(labels.shape, dtype=np.float32)
    index.compute_distance_subset(
        len(queries), faiss.swig_ptr(queries), labels.shape[1], faiss.swig_ptr(scores), faiss.swig_ptr(labels)
    )
    return labels, scores


def selected(index: Any, positions: Int64Array) -> Find:
    """Searches an index on the CPU among these positions."""
    faiss = require("faiss")
    keep = np.zeros(index.ntotal, dtype=bool)
    keep[positions] = True
    bits = np.packbits(keep, bitorder="little")
    selector = faiss.IDSelectorBitmap(bits)

    def find(queries: Float32Array, fetch: int) -> Found:
        scores, found = index.search(queries, fetch, params=faiss.SearchParameters(sel=selector))
        return found, scores

    return find


def sifted(search: Find, num_items: int, positions: Int64Array, *, max_fetch: int, otherwise: Find) -> Find:
    """Searches among these positions by an index that knows no selectors.

    Args:
        search: over all positions.
        num_items: how many positions there are.
        positions: those wanted.
        max_fetch: the most that ``search`` may be asked for.
        otherwise: takes over where that does not reach far enough.
    """
    keep = np.zeros(num_items, dtype=bool)
    keep[positions] = True
    share = len(positions) / num_items

    def find(queries: Float32Array, fetch: int) -> Found:
        depth = min(int(2 * fetch / share), num_items)
        while depth <= max_fetch:
            found, scores = search(queries, depth)
            wanted = keep[found]
            if (wanted.sum(axis=1) >= fetch).all():
                # A stable sort brings the wanted to the front and leaves them in order, best first.
                front = np.argsort(~wanted, axis=1, kind="stable")[:, :fetch]
                return np.take_along_axis(found, front, axis=1), np.take_along_axis(scores, front, axis=1)
            depth = min(2 * depth, num_items) if depth < num_items else max_fetch + 1
        return otherwise(queries, fetch)

    return find
