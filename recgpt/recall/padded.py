"""Rows of several requests in one array, of any number each, filled up with 0."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from recgpt.types import Int64Array

# Pairs of rows that are compared one by one rather than sorted first.
_MAX_COMPARED = 1 << 16


def pad_rows(rows: Sequence[Collection[int]]) -> Int64Array:
    """Rows of N requests as (N, E) int64, E at least 1."""
    padded = np.zeros((len(rows), max([1, *map(len, rows)])), dtype=np.int64)
    for place, listed in enumerate(rows):
        padded[place, : len(listed)] = list(listed)
    return padded


def in_same_row(values: Int64Array, among: Int64Array) -> NDArray[np.bool_]:
    """Whether each of values (N, K), 0 or above, is in its row of (N, E)."""
    if values.size * among.shape[1] < _MAX_COMPARED:
        same: NDArray[np.bool_] = (values[:, :, None] == among[:, None, :]).any(axis=2)
        return same
    offsets = np.arange(len(values))[:, None] * (max(values.max(), among.max()) + 1)
    return np.isin(values + offsets, among + offsets)
