"""Item vectors of large catalogues that nobody has to download: a seeded mixture, about as hard to search as real ones.

Groups lie around a few dozen departments and items around groups, groups of Zipf's sizes; queries are drawn like items
with a little less spread. With these spreads an inverted file finds as much of the exact answer, cell for cell, as it
does among the trained vectors of Amazon Beauty; noise without structure would be harder, tight clusters far easier.
"""

from __future__ import annotations

import numpy as np

from recgpt.types import Float32Array

_NUM_DEPARTMENTS = 30
_ITEMS_PER_GROUP = 12
_GROUP_SPREAD, _ITEM_SPREAD, _QUERY_SPREAD = 0.7, 1.6, 1.4
_ZIPF = 0.7

# Drawn at once, so that ten million items need no second copy of their matrix.
_CHUNK = 1 << 18


def item_vectors(num_items: int, size: int, *, seed: int = 0) -> Float32Array:
    """Unit vectors (V, D)."""
    return _drawn(num_items, num_items, size, _ITEM_SPREAD, seed, stream=1)


def query_vectors(number: int, num_items: int, size: int, *, seed: int = 0) -> Float32Array:
    """Unit vectors (N, D) around the groups of ``item_vectors`` of the same V, D and seed."""
    return _drawn(number, num_items, size, _QUERY_SPREAD, seed, stream=2)


def _drawn(number: int, num_items: int, size: int, spread: float, seed: int, *, stream: int) -> Float32Array:
    groups, shares = _groups(num_items, size, seed)
    generator = np.random.default_rng([seed, stream])
    vectors = np.empty((number, size), dtype=np.float32)
    for start in range(0, number, _CHUNK):
        part = vectors[start : start + _CHUNK]
        part[:] = groups[np.searchsorted(shares, generator.random(len(part)), side="right")]
        part += _noise(generator, part.shape, spread)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def _groups(num_items: int, size: int, seed: int) -> tuple[Float32Array, Float32Array]:
    """Centres (G, D) of unit length, and the cumulated shares of the items that belong to them."""
    generator = np.random.default_rng([seed, 0])
    number = max(1, num_items // _ITEMS_PER_GROUP)
    departments = _noise(generator, (_NUM_DEPARTMENTS, size), 1.0)
    centres = departments[generator.integers(_NUM_DEPARTMENTS, size=number)]
    centres = centres + _noise(generator, (number, size), _GROUP_SPREAD)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    weights = np.arange(1, number + 1) ** -_ZIPF
    shares = np.cumsum(weights / weights.sum())
    shares[-1] = 1.0
    return centres, shares.astype(np.float32)


def _noise(generator: np.random.Generator, shape: tuple[int, ...], spread: float) -> Float32Array:
    """Of expected length ``spread``."""
    noise: Float32Array = generator.standard_normal(shape, dtype=np.float32)
    noise *= np.float32(spread / np.sqrt(shape[-1]))
    return noise
