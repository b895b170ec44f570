"""Approximate search: Faiss indexes that name candidates without looking at every item.

    hnsw      a graph of near items, over vectors in 8 bits
    ivf       lists by cell, vectors in float32
    ivf_sq8   lists by cell, vectors in 8 bits
    ivf_pq    lists by cell, vectors in 4 bits for each two numbers, looked up in a core's registers

What they name is scored exactly elsewhere, so codes in 8 bits cost candidates, not scores. How far a search goes is its
effort: candidates kept on the way for hnsw, cells looked into for the others. Knows vectors and positions only.

Tables of ivf_pq are rounded for a batch together, so which candidates it names for a query may differ a little
with the other queries.

Cells are made by inner products with centroids: for unit vectors these are the nearest ones. Where lengths differ, long
vectors draw to few cells, and it takes more effort to find as much.
"""

from __future__ import annotations

import functools
import math
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from recgpt.errors import BundleCorruptError, ConfigError
from recgpt.extras import require
from recgpt.recall.index_reading import reading
from recgpt.types import Float32Array, Int64Array


class IndexKind(StrEnum):
    """How items are searched: all of them, exactly, or by one of the ways above."""

    FLAT = "flat"
    HNSW = "hnsw"
    IVF = "ivf"
    IVF_SQ8 = "ivf_sq8"
    IVF_PQ = "ivf_pq"


# How many to ask for: scores in 8 bits put the last ones of exactly k in a wrong order, those in 4 bits many more.
_CANDIDATES_PER_FOUND, _CANDIDATES_PER_FOUND_PQ = 2, 32
_PQ_NUMBERS, _PQ_BITS = 2, 4

# How ivf_pq goes through its blocks. Faiss reads this from the file unchecked, and other numbers end the process.
_PQ_SCAN = {"bbs": 32, "implem": 0, "qbs2": 0}

# What Faiss asks for at least to train a cell, and what it is given where there are more items.
_LEAST_PER_CELL, _TRAINING_PER_CELL = 39, 64
_HNSW_NEIGHBOURS, _HNSW_BUILD_EFFORT = 32, 80


class Neighbours:
    """A trained index that names candidates. Safe to search from several threads.

    Args:
        index: an HNSW or IVF index of Faiss with inner products.
        effort: of one search.
    """

    def __init__(self, index: Any, *, effort: int) -> None:
        self._faiss = require("faiss")
        self._index = index
        self.effort = effort

    @classmethod
    def build(cls, kind: IndexKind, vectors: Float32Array, *, seed: int = 0) -> Neighbours:
        """Trains and fills an index of effort 1.

        Args:
            kind: any but FLAT.
            vectors: (V, D) float32.
            seed: of what is drawn to train on.

        Raises:
            ConfigError: a flat index names no candidates; or vectors of an odd width, for ``ivf_pq``.
        """
        if kind is IndexKind.FLAT:
            raise ConfigError("a flat index is searched as it is; expected one of the approximate kinds")
        # A search leaves its own number behind.
        require("faiss").omp_set_num_threads(openmp_threads())
        index = _untrained(kind, *vectors.shape)
        num_training = min(len(vectors), _TRAINING_PER_CELL * max(1, num_cells(len(vectors))))
        index.train(vectors[np.sort(np.random.default_rng(seed).permutation(len(vectors))[:num_training])])
        index.add(np.ascontiguousarray(vectors))
        return cls(index, effort=1)

    @classmethod
    def load(cls, path: Path, *, effort: int) -> Neighbours:
        """Reads what ``save`` wrote; check its hash first. BundleCorruptError if it is no such index."""
        faiss = require("faiss")
        with reading(path):
            index = faiss.read_index(str(path))
        if not isinstance(index, faiss.IndexIVF | faiss.IndexHNSW):
            raise BundleCorruptError(f"{path}: expected an HNSW or IVF index; export the checkpoint again")
        if isinstance(index, faiss.IndexIVFPQFastScan):
            scan = {name: getattr(index, name) for name in _PQ_SCAN}
            if scan != _PQ_SCAN:
                raise BundleCorruptError(f"{path}: blocks of {scan}, not {_PQ_SCAN}; export the checkpoint again")
        return cls(index, effort=effort)

    def save(self, path: Path) -> None:
        """Writes the index to a file; OSError if it cannot."""
        path.write_bytes(self._faiss.serialize_index(self._index).data)

    @property
    def num_items(self) -> int:
        """How many vectors it holds."""
        return int(self._index.ntotal)

    @property
    def size(self) -> int:
        """D, width of a vector."""
        return int(self._index.d)

    @property
    def candidates_per_found(self) -> int:
        """How many candidates to ask for, for each item that is wanted."""
        is_pq = isinstance(self._index, self._faiss.IndexIVFPQFastScan)
        return _CANDIDATES_PER_FOUND_PQ if is_pq else _CANDIDATES_PER_FOUND

    @property
    def max_effort(self) -> int:
        """What looks at every item."""
        return int(self._index.nlist) if isinstance(self._index, self._faiss.IndexIVF) else self.num_items

    @property
    def parameters(self) -> dict[str, int]:
        """What it was built with."""
        if isinstance(self._index, self._faiss.IndexIVF):
            return {"num_cells": int(self._index.nlist)}
        hnsw = self._index.hnsw
        return {"num_neighbours": int(hnsw.nb_neighbors(1)), "build_effort": int(hnsw.efConstruction)}

    def add(self, vectors: Float32Array) -> None:
        """Adds vectors behind those it holds, by the cells that it has."""
        self._index.add(np.ascontiguousarray(vectors))

    def candidates(self, queries: Float32Array, number: int) -> Int64Array:
        """Positions (N, number) of candidates, the best by the index's own scores first; -1 where it found no more."""
        if isinstance(self._index, self._faiss.IndexIVF):
            parameters = self._faiss.SearchParametersIVF(nprobe=self.effort)
        else:
            parameters = self._faiss.SearchParametersHNSW(efSearch=max(self.effort, number))
        positions: Int64Array = self._index.search(queries, number, params=parameters)[1]
        return positions


def num_cells(num_items: int) -> int:
    """Cells of an IVF index: the power of two next to four times the square root of V, but none with too few items."""
    wanted, most = 4 * math.sqrt(max(1, num_items)), max(1, num_items // _LEAST_PER_CELL)
    return 1 << min(round(math.log2(wanted)), int(math.log2(most)))


def _untrained(kind: IndexKind, num_items: int, size: int) -> Any:
    faiss = require("faiss")
    product, code = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_8bit
    if kind is IndexKind.HNSW:
        index = faiss.IndexHNSWSQ(size, code, _HNSW_NEIGHBOURS, product)
        index.hnsw.efConstruction = _HNSW_BUILD_EFFORT
        return index
    centroids = faiss.IndexFlatIP(size)
    if kind is IndexKind.IVF:
        index = faiss.IndexIVFFlat(centroids, size, num_cells(num_items), product)
    elif kind is IndexKind.IVF_PQ:
        if size % _PQ_NUMBERS:
            raise ConfigError(f"vectors of width {size}: {kind} wants an even one; choose another index")
        parts = size // _PQ_NUMBERS
        index = faiss.IndexIVFPQFastScan(centroids, size, num_cells(num_items), parts, _PQ_BITS, product)
        index.by_residual = True  # what a vector differs by from its cell's centre takes fewer bits
    else:
        index = faiss.IndexIVFScalarQuantizer(centroids, size, num_cells(num_items), code, product, False)
    index.own_fields = True
    centroids.this.disown()
    return index


@functools.cache
def openmp_threads() -> int:
    """Threads that OpenMP was told to use before any search set its own number; indexes ask when they are made."""
    return int(require("faiss").omp_get_max_threads())
