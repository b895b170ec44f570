"""Search of a flat index on a GPU, from any thread, of queries in main memory or where a graph left them on the GPU.

Faiss's GPU indexes are not thread-safe, not even for searches, and know no id selectors: every thread gets an index and
resources of its own, and what must not be found is looked up too and left out afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recgpt.extras import require
from recgpt.types import Float32Array, Int64Array

MAX_FETCH = 2048
"""Faiss's GPU indexes refuse to look up more; a history of thousands of items asks for that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceMatrix:
    """A float32 matrix in the memory of a GPU.

    Attributes:
        address: of its first element; rows lie one behind the other.
        shape: (N, D).
        owner: keeps the memory alive.
    """

    address: int
    shape: tuple[int, int]
    owner: object


class GpuSearcher:
    """Searches a copy of an index on a GPU. Safe to call from several threads.

    Args:
        index: a flat index in main memory; each thread that searches copies it to the GPU once.
        copy_to_gpu: makes that copy; None takes Faiss's own, to GPU 0.
    """

    def __init__(self, index: Any, *, copy_to_gpu: Callable[[Any], Any] | None = None) -> None:
        self._faiss = require("faiss")
        self._index = index
        self._copy_to_gpu = copy_to_gpu or self._copy
        self._of_thread = threading.local()

    def search(self, queries: Float32Array | DeviceMatrix, k: int) -> tuple[Float32Array, Int64Array]:
        """Scores and places of the k best, each (N, k), as Faiss gives them; k is at most ``MAX_FETCH``."""
        searcher = self._searcher()
        if not isinstance(queries, DeviceMatrix):
            found: tuple[Float32Array, Int64Array] = searcher.search(queries, k)
            return found
        number = queries.shape[0]
        scores, places = np.empty((number, k), dtype=np.float32), np.empty((number, k), dtype=np.int64)
        # Faiss's C++ takes addresses of either memory; its Python methods take arrays of numpy only.
        address = self._faiss.cast_integer_to_float_ptr(queries.address)
        searcher.search_c(number, address, k, self._faiss.swig_ptr(scores), self._faiss.swig_ptr(places))
        return scores, places

    def _searcher(self) -> Any:
        searcher = getattr(self._of_thread, "searcher", None)
        if searcher is None:
            searcher = self._of_thread.searcher = self._copy_to_gpu(self._index)
        return searcher

    def _copy(self, index: Any) -> Any:
        # Kept alive by the copy.
        return self._faiss.index_cpu_to_gpu(self._faiss.StandardGpuResources(), 0, index)
