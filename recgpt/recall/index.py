"""Exact maximum-inner-product search over the item vectors, with Faiss.

Knows rows and vectors; nothing of users, quotas or ids. On a GPU if there is one.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recgpt.extras import require
from recgpt.recall.index_filter import MAX_SCORED, Find, Found, score_each, selected, sifted
from recgpt.recall.index_gpu import MAX_FETCH, GpuSearcher
from recgpt.recall.index_memory import read_flat
from recgpt.types import Float32Array, Int64Array

# Below this many queries a search runs in the calling thread.
_MIN_QUERIES_PER_THREAD = 32


class ItemIndex:
    """Item vectors by row; row 0, the padding, is not in it and can never be found.

    Searches are exact and deterministic: best score first, the lower row first among equal scores, also where equal
    scores straddle the end of the list. Safe to call from several threads.

    Args:
        index: a flat inner-product index of Faiss.
        num_threads: of one search with many queries; None takes what OpenMP offers.
        rows: (V,) int64, ascending, the row of each vector; None means 1..V.
    """

    def __init__(self, index: Any, *, num_threads: int | None = None, rows: Int64Array | None = None) -> None:
        self._faiss = require("faiss")
        self._index = index
        self._rows = np.arange(1, index.ntotal + 1, dtype=np.int64) if rows is None else rows
        self._num_threads = _openmp_threads() if num_threads is None else num_threads
        self._item_matrix: Float32Array | None = None
        self._gpu = GpuSearcher(index) if self._faiss.get_num_gpus() > 0 else None

    @classmethod
    def build(cls, item_matrix: Float32Array) -> ItemIndex:
        """Makes an index of the output matrix (V + 1, D) float32, row 0 being padding."""
        index = require("faiss").IndexFlatIP(item_matrix.shape[1])
        index.add(np.ascontiguousarray(item_matrix[1:], dtype=np.float32))
        return cls(index)

    @classmethod
    def load(cls, path: Path, *, num_threads: int | None = None) -> ItemIndex:
        """Reads an index that ``save`` wrote.

        Check the file's hash first: Faiss's reader trusts most of what it reads.

        Raises:
            BundleCorruptError: the file is missing or not such an index.
        """
        index, matrix = read_flat(path)
        loaded = cls(index, num_threads=num_threads)
        loaded._item_matrix = matrix
        return loaded

    def without(self, rows: Iterable[int]) -> ItemIndex:
        """The same index with some rows left out, so that they can never be found."""
        kept = ~np.isin(self._rows, list(rows))
        index = self._faiss.IndexFlatIP(self.size)
        index.add(self.vectors()[kept])
        left = ItemIndex(index, num_threads=self._num_threads, rows=self._rows[kept])
        left._item_matrix = self._item_matrix
        return left

    def save(self, path: Path) -> None:
        """Writes the index to a file; OSError if it cannot (Faiss's own writer does not notice every full disk)."""
        path.write_bytes(self._faiss.serialize_index(self._index).data)

    @property
    def num_items(self) -> int:
        """V, how many items can be found."""
        return int(self._index.ntotal)

    @property
    def rows(self) -> Int64Array:
        """(V,) int64, the rows that can be found, ascending."""
        return self._rows

    @property
    def size(self) -> int:
        """D, width of a vector."""
        return int(self._index.d)

    @property
    def item_matrix(self) -> Float32Array | None:
        """(V + 1, D), row 0 zero: what was loaded, with all rows; searched in place where none is left out.

        For others to use too instead of a copy; not to be changed. None if the index was not loaded.
        """
        return self._item_matrix

    def vectors(self) -> Float32Array:
        """The item vectors (V, D) float32 in row order, so that row r stands at r - 1 where none is left out."""
        stored: Float32Array = self._index.reconstruct_n(0, self.num_items)
        return stored

    def digest(self) -> str:
        """Hex SHA-256 of the vectors' bytes; the graphs that belong to this index carry the same."""
        return vectors_digest(self.vectors())

    def search(self, queries: Float32Array, k: int, among: Int64Array | None = None) -> tuple[Int64Array, Float32Array]:
        """Finds the k best items for each query, of all or of some.

        Args:
            queries: (N, D) float32.
            k: no more items are returned than there are, however large k is.
            among: None, or the only rows to be found: (A,) int64, ascending and distinct, all in the index.

        Returns:
            rows (N, min(k, A or V)) int64 and scores likewise float32, best first, the lower row first among equals.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if among is None:
            return self._search(queries, k, self.num_items, self._find)
        positions = np.searchsorted(self._rows, among)
        if len(among) <= MAX_SCORED:
            found, scores = self._sorted(*score_each(self._index, queries, positions))
            return found[:, :k], scores[:, :k]
        find = selected(self._index, positions)
        if self._gpu is not None:
            find = sifted(self._find, self.num_items, positions, max_fetch=MAX_FETCH, otherwise=find)
        return self._search(queries, k, len(among), find)

    def _search(self, queries: Float32Array, k: int, num_items: int, find: Find) -> tuple[Int64Array, Float32Array]:
        k = min(k, num_items)
        fetch = min(k + 1, num_items)  # one more than asked tells whether equal scores straddle the end
        # OpenMP keeps this setting for each calling thread. Waking its workers costs more than a few queries do.
        self._faiss.omp_set_num_threads(1 if len(queries) < _MIN_QUERIES_PER_THREAD else self._num_threads)
        rows, scores = self._sorted(*find(queries, fetch))
        if fetch > k:
            for query in np.flatnonzero(scores[:, k - 1] == scores[:, k]):
                rows[query], scores[query] = self._search_ties(queries[query : query + 1], fetch, num_items, find)
        return rows[:, :k], scores[:, :k]

    def _search_ties(
        self, query: Float32Array, fetch: int, num_items: int, find: Find
    ) -> tuple[Int64Array, Float32Array]:
        # Which of the equal scores Faiss kept is chance, so the search widens until it holds all of them. The scores
        # stay Faiss's: a matrix product may give two equal vectors scores that differ in the last bit.
        depth = fetch
        while True:
            depth = min(2 * depth, num_items)
            rows, scores = self._sorted(*find(query, depth))
            if depth == num_items or scores[0, -1] < scores[0, fetch - 1]:
                return rows[0, :fetch], scores[0, :fetch]

    def _find(self, queries: Float32Array, fetch: int) -> Found:
        searcher = self._index if self._gpu is None or fetch > MAX_FETCH else self._gpu
        scores, positions = searcher.search(queries, fetch)
        return positions, scores

    def _sorted(self, positions: Int64Array, scores: Float32Array) -> tuple[Int64Array, Float32Array]:
        """Rows and scores, best first, the lower row first among equals."""
        rows = self._rows[positions]
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)


@functools.cache
def _openmp_threads() -> int:
    """Threads OpenMP was told to use before any search here set its own number."""
    return int(require("faiss").omp_get_max_threads())


def vectors_digest(vectors: Float32Array) -> str:
    """Hex SHA-256 of item vectors (V, D) float32, rows 1..V in order."""
    return hashlib.sha256(np.ascontiguousarray(vectors, dtype=np.float32).data).hexdigest()
