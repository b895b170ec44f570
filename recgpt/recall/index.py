"""Exact maximum-inner-product search over the item vectors, by a scan in 8 bits or by Faiss.

Knows rows and vectors; nothing of users, quotas or ids. On a GPU if there is one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from recgpt.extras import require
from recgpt.recall.index_ann import Neighbours, openmp_threads
from recgpt.recall.index_filter import MAX_SCORED, Find, Found, score_each, selected, sifted
from recgpt.recall.index_gpu import MAX_FETCH, GpuSearcher
from recgpt.recall.index_memory import read_flat
from recgpt.recall.index_scan import ItemScan, best_of_pairs
from recgpt.recall.padded import in_same_row
from recgpt.types import Float32Array, Int64Array

# Below this many queries a search runs in the calling thread.
_MIN_QUERIES_PER_THREAD = 32

# What the scan costs besides its products is worth it from this many scores on, and while k is below one item in so
# many. Measured by benchmarks/item_search.py.
_MIN_SCANNED = 80_000
_MIN_ITEMS_PER_FOUND = 128

# Scores the scan holds at once, 16 MiB: to read the items once for several queries saves more than is lost where scores
# leave a core's cache before they are sorted.
_MAX_SCANNED = 1 << 22
_MIN_SCANNED_TOGETHER = 4


class ItemIndex:
    """Item vectors by row; row 0, the padding, is not in it and can never be found.

    Searches are exact and deterministic: best score first, the lower row first among equal scores, also where equal
    scores straddle the end of the list. With ``neighbours`` an item may be missed; scores, order and number of what is
    found are as promised all the same. Safe to call from several threads.

    Args:
        index: a flat inner-product index of Faiss.
        num_threads: of one search with many queries; None takes what OpenMP offers.
        rows: (V,) int64, ascending, the row of each vector; None means 1..V.
        neighbours: names candidates by row - 1 for an approximate search; None searches exactly.
    """

    def __init__(
        self,
        index: Any,
        *,
        num_threads: int | None = None,
        rows: Int64Array | None = None,
        neighbours: Neighbours | None = None,
    ) -> None:
        self._faiss = require("faiss")
        self._index = index
        self._rows = np.arange(1, index.ntotal + 1, dtype=np.int64) if rows is None else rows
        # One behind the last stands for rows that are not in the index, 0 for none among them.
        self._positions = np.full(self._rows.max(initial=0) + 2, index.ntotal, dtype=np.int64)
        self._positions[self._rows] = np.arange(index.ntotal)
        offered = openmp_threads()
        self._num_threads = offered if num_threads is None else num_threads
        self._item_matrix: Float32Array | None = None
        self._gpu: GpuSearcher | None = None
        self._neighbours = neighbours
        self._vectors = self._faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)  # no copy
        self._vectors = self._vectors.reshape(index.ntotal, index.d)
        self._scan: ItemScan | None = None
        if neighbours is None and self._faiss.get_num_gpus() > 0:
            self._gpu = GpuSearcher(index)
        elif neighbours is None and self.num_items >= _MIN_ITEMS_PER_FOUND:
            self._scan = ItemScan(self._vectors, num_threads=self._num_threads)

    @classmethod
    def build(cls, item_matrix: Float32Array, *, num_threads: int | None = None) -> ItemIndex:
        """Makes an index of the output matrix (V + 1, D) float32, row 0 being padding."""
        index = require("faiss").IndexFlatIP(item_matrix.shape[1])
        index.add(np.ascontiguousarray(item_matrix[1:], dtype=np.float32))
        return cls(index, num_threads=num_threads)

    @classmethod
    def load(cls, path: Path, *, num_threads: int | None = None, neighbours: Neighbours | None = None) -> ItemIndex:
        """Reads an index that ``save`` wrote; arguments as of the class.

        Check the file's hash first: Faiss's reader trusts most of what it reads.

        Raises:
            BundleCorruptError: the file is missing or not such an index.
        """
        index, matrix = read_flat(path)
        loaded = cls(index, num_threads=num_threads, neighbours=neighbours)
        loaded._item_matrix = matrix
        return loaded

    def without(self, rows: Iterable[int]) -> ItemIndex:
        """The same index with some rows left out, so that they can never be found."""
        kept = ~np.isin(self._rows, list(rows))
        index = self._faiss.IndexFlatIP(self.size)
        index.add(self.vectors()[kept])
        left = ItemIndex(index, num_threads=self._num_threads, rows=self._rows[kept], neighbours=self._neighbours)
        left._item_matrix = self._item_matrix
        return left

    def approximate(self, neighbours: Neighbours) -> ItemIndex:
        """The same index when candidates are named by ``neighbours``, which holds the vectors of rows 1, 2, .."""
        other = ItemIndex(self._index, num_threads=self._num_threads, rows=self._rows, neighbours=neighbours)
        other._item_matrix = self._item_matrix
        return other

    def save(self, path: Path) -> None:
        """Writes the index to a file; OSError if it cannot (Faiss's own writer does not notice every full disk)."""
        path.write_bytes(self._faiss.serialize_index(self._index).data)

    @property
    def num_items(self) -> int:
        """V, how many items can be found."""
        return len(self._rows)

    @property
    def is_exact(self) -> bool:
        """Whether no item can be missed."""
        return self._neighbours is None

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

    def search(
        self, queries: Float32Array, k: int, among: Int64Array | None = None, *, excluded: Int64Array | None = None
    ) -> tuple[Int64Array, Float32Array]:
        """Finds the k best items for each query, of all or of some.

        Args:
            queries: (N, D) float32.
            k: no more items are returned than there are, however large k is.
            among: None, or the only rows to be found: (A,) int64, ascending and distinct, all in the index. Searched
                exactly in any case.
            excluded: where ``among`` is None, (N, E) int64 rows of each query that come last, with score -inf: only
                where no other item is left; 0 for none.

        Returns:
            rows (N, min(k, A or V)) int64 and scores likewise float32, best first, the lower row first among equals.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if among is not None:
            return self._search_among(queries, k, among)
        k = min(k, self.num_items)
        if excluded is None or not excluded.shape[1]:
            excluded = np.zeros((len(queries), 1), dtype=np.int64)
        if self._neighbours is not None:
            return self._search_near(self._neighbours, queries, k, excluded)
        is_small = len(queries) * self.num_items < _MIN_SCANNED or k * _MIN_ITEMS_PER_FOUND > self.num_items
        if self._scan is None or is_small:
            return self._search_flat(queries, k, excluded)
        step = max(_MIN_SCANNED_TOGETHER, _MAX_SCANNED // self.num_items)
        parts = [
            self._search_scan(self._scan, queries[start : start + step], k, excluded[start : start + step])
            for start in range(0, len(queries), step)
        ]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])

    def _search_among(self, queries: Float32Array, k: int, among: Int64Array) -> tuple[Int64Array, Float32Array]:
        positions = self._positions[among]
        if len(among) <= MAX_SCORED:
            found, scores = self._sorted(*score_each(self._index, queries, positions))
            return found[:, :k], scores[:, :k]
        find = selected(self._index, positions)
        if self._gpu is not None:
            find = sifted(self._find, self.num_items, positions, max_fetch=MAX_FETCH, otherwise=find)
        return self._search_exact(queries, min(k, len(among)), len(among), find)

    def _search_near(
        self, neighbours: Neighbours, queries: Float32Array, k: int, excluded: Int64Array
    ) -> tuple[Int64Array, Float32Array]:
        """Exact scores of candidates; a query for which there are too few is searched exactly."""
        self._set_threads(len(queries))
        num_excluded = int(np.count_nonzero(excluded, axis=1).max(initial=0))
        number = min(neighbours.candidates_per_found * k + num_excluded, neighbours.num_items)
        positions = np.sort(self._positions.take(neighbours.candidates(queries, number) + 1, mode="clip"), axis=1)
        is_open = (positions < self.num_items) & ~in_same_row(self._rows.take(positions, mode="clip"), excluded)
        is_short = is_open.sum(axis=1) < k
        rows = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        if is_short.any():
            rows[is_short], scores[is_short] = self._search_flat(queries[is_short], k, excluded[is_short])
        enough = ~is_short
        query, place = np.nonzero(is_open[enough])
        found, scores[enough] = best_of_pairs(self._vectors, queries[enough], k, query, positions[enough][query, place])
        rows[enough] = self._rows[found]
        return rows, scores

    def _search_scan(
        self, scan: ItemScan, queries: Float32Array, k: int, excluded: Int64Array
    ) -> tuple[Int64Array, Float32Array]:
        found = scan.search(queries, k, self._positions.take(excluded, mode="clip"))
        if found is None:
            return self._search_flat(queries, k, excluded)
        positions, scores = found
        return self._rows[positions], scores

    def _search_flat(self, queries: Float32Array, k: int, excluded: Int64Array) -> tuple[Int64Array, Float32Array]:
        """Looks up as many more as are excluded, and puts these last."""
        num_excluded = int(np.count_nonzero(excluded, axis=1).max(initial=0))
        rows, scores = self._search_exact(queries, min(k + num_excluded, self.num_items), self.num_items, self._find)
        if num_excluded:
            is_excluded = in_same_row(rows, excluded)
            scores[is_excluded] = -np.inf
            rows, scores = _reordered(rows, scores, np.argsort(is_excluded, axis=1, kind="stable")[:, :k])
        return rows[:, :k], scores[:, :k]

    def _search_exact(
        self, queries: Float32Array, k: int, num_items: int, find: Find
    ) -> tuple[Int64Array, Float32Array]:
        fetch = min(k + 1, num_items)  # one more than asked tells whether equal scores straddle the end
        self._set_threads(len(queries))
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
        if (scores[:, 1:] < scores[:, :-1]).all():
            return rows, scores  # as nearly always: Faiss's order is right, without equal scores
        return _reordered(rows, scores, np.lexsort((rows, -scores), axis=1))

    def _set_threads(self, num_queries: int) -> None:
        # OpenMP keeps this setting for each calling thread. Waking its workers costs more than a few queries do.
        self._faiss.omp_set_num_threads(1 if num_queries < _MIN_QUERIES_PER_THREAD else self._num_threads)


def _reordered(rows: Int64Array, scores: Float32Array, order: Int64Array) -> tuple[Int64Array, Float32Array]:
    """Both (N, K) by the columns of order (N, K or fewer)."""
    queries = np.arange(len(rows))[:, None]
    return rows[queries, order], scores[queries, order]


def vectors_digest(vectors: Float32Array) -> str:
    """Hex SHA-256 of item vectors (V, D) float32, rows 1..V in order."""
    return hashlib.sha256(np.ascontiguousarray(vectors, dtype=np.float32).data).hexdigest()
