"""Exact search by a scan of all items in 8 bits, and exact scores of those that it leaves in doubt.

The scan runs in ONNX Runtime, whose integer product is the fastest at hand. Knows vectors and positions; nothing of
rows and ids.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from recgpt.extras import require
from recgpt.recall.onnx_bytes import Operators, Tensor, release_bytes, write_graph
from recgpt.recall.scan import BLOCK, NEVER, RoundedItems, blocks_in_doubt, scan
from recgpt.types import Float32Array, Int64Array

# Where more than one item in so many is left in doubt, a search without a scan is faster.
_MAX_DOUBT = 16

# Pairs that are gathered and scored at once: what they need stays in a core's cache.
_GATHERED = 2048


class ItemScan:
    """Item vectors in 8 bits for a search. Safe to call from several threads.

    Args:
        vectors: (V, D) float32, kept as they are given, without a copy.
        num_threads: of one search.
    """

    def __init__(self, vectors: Float32Array, *, num_threads: int) -> None:
        self._vectors = vectors
        num_whole = len(vectors) // BLOCK
        # At least one column is no item: the one that stands for no exclusion.
        self._num_blocks = num_whole + 1
        rounded = RoundedItems.of(vectors, self._num_blocks * BLOCK)
        self._session = _session(rounded, num_whole, num_threads)

    def search(self, queries: Float32Array, k: int, excluded: Int64Array) -> tuple[Int64Array, Float32Array] | None:
        """Finds the k best items for each query.

        Args:
            queries: (N, D) float32.
            k: 1 to V // 64.
            excluded: (N, E) int64 positions that are not to be found, V for none; E at least 1.

        Returns:
            positions (N, k) int64 and scores (N, k) float32, best first, the lower position first among equals; None if
            the scan leaves too many items in doubt, or the exclusions too few.
        """
        feeds = {"queries": queries, "excluded": excluded, "k": np.array([k], dtype=np.int64)}
        lowest, numbers, in_doubt = self._session.run(None, feeds)
        if lowest.min() <= NEVER + 1:
            return None
        found = np.flatnonzero(in_doubt)
        if len(found) * _MAX_DOUBT > len(queries) * len(self._vectors):
            return None
        query, block = np.divmod(numbers, self._num_blocks)
        place, column = np.divmod(found, BLOCK)
        pairs = query[place], block[place] * BLOCK + column
        return best_of_pairs(self._vectors, queries, k, *(each[pairs[1] < len(self._vectors)] for each in pairs))


def best_of_pairs(
    vectors: Float32Array, queries: Float32Array, k: int, query: Int64Array, position: Int64Array
) -> tuple[Int64Array, Float32Array]:
    """The k best of each query by exact scores, among distinct pairs, of which each query has at least k.

    Args:
        vectors: (V, D) float32.
        queries: (N, D) float32.
        k: of each query.
        query: (M,) int64, ascending.
        position: (M,) int64, ascending for each query.

    Returns:
        positions (N, k) int64 and scores (N, k) float32, best first, the lower position first among equals.
    """
    scores = np.empty(len(query), dtype=np.float32)
    for start in range(0, len(query), _GATHERED):
        part = slice(start, start + _GATHERED)
        pair = queries.take(query[part], axis=0), vectors.take(position[part], axis=0)
        # A matrix product may give equal vectors scores that differ in the last bit.
        np.einsum("nd,nd->n", *pair, out=scores[part])
    order = np.argsort((query << 32) - _ascending_bits(scores), kind="stable")
    firsts = np.searchsorted(query, np.arange(len(queries)))
    best = order[firsts[:, None] + np.arange(k)]
    return position[best], scores[best]


def _ascending_bits(scores: Float32Array) -> Int64Array:
    """Whole numbers of 32 bits in the order of float32 numbers, which sort many times as fast together with others."""
    bits = (scores + np.float32(0)).view(np.int32)  # -0 becomes 0, its equal
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)


def _session(items: RoundedItems, num_whole: int, num_threads: int) -> Any:
    op = Operators()
    num_blocks = num_whole + 1
    scanned = scan(
        op,
        "queries",
        op.constant(items.matrix, np.int8),
        "excluded",
        "k",
        items.rounding,
        num_blocks=num_blocks,
        num_whole=num_whole,
    )
    numbers, in_doubt = blocks_in_doubt(op, scanned, num_blocks=num_blocks)
    inputs = [
        Tensor("queries", "float32", ["N", items.matrix.shape[0]]),
        Tensor("excluded", "int64", ["N", "E"]),
        Tensor("k", "int64", [1]),
    ]
    outputs = [
        Tensor(scanned.lowest, "int32", ["N", 1]),
        Tensor(numbers, "int64", ["M"]),
        Tensor(in_doubt, "bool", ["M", BLOCK]),
    ]
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = num_threads
    # Threads that spin while they wait take the cores from the model and from other requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = write_graph(op.nodes, op.constants, inputs, outputs)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    release_bytes(session)
    return session
