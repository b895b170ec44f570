"""Exact search by a scan of all items in 8 bits, and exact scores of those that it leaves in doubt.

A score s = q . x becomes the whole number Q . X, where x = a X + r with one step a for all items and q = b Q + t with a
step b for each query. By Cauchy and Schwarz

    |s - a b Q . X|  =  |q . r + t . (a X)|  <=  |q| max |r| + |t| max |a X|  =  e

k items whose scanned scores are at least m make the k-th best exact score at least m - e, so every item of the answer
has a scanned score of at least m - 2 e. All that have are scored exactly; nothing can be missed, whatever the vectors.
The scan reads a quarter of the bytes of a float search and multiplies whole numbers. It runs in ONNX Runtime, whose
integer product is the fastest at hand. Knows vectors and positions; nothing of rows and ids.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recgpt.extras import require
from recgpt.recall.onnx_bytes import Node, Tensor, release_bytes, write_graph
from recgpt.types import Float32Array, Int64Array

# Queries use 7 bits around this zero: with 8, processors without VNNI instructions overflow.
_ZERO = 64

# Items a block. m is the k-th best of the blocks' maxima, which are far fewer to sort than the scores.
_BLOCK = 64

# Float32 sums of D products are off by at most D of these, relative to |q| |x|; so are what the bound is made of.
_ROUNDING = 2.0**-22

# Where more than one item in so many is left in doubt, a search without a scan is faster.
_MAX_DOUBT = 16

# Below all products of bytes that fit, and so is a margin below the best of them.
_EXCLUDED = -(2**30)
_MAX_MARGIN = 2**29

# Vectors that are rounded at once, so that a large catalogue needs no second copy of its matrix.
_ROUNDED = 1 << 18

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
        num_items, size = vectors.shape
        largest = max(float(vectors.max(initial=0)), -float(vectors.min(initial=0)))
        self._step = max(largest, float(np.finfo(np.float32).tiny)) / 127
        self._longest = lost = 0.0
        # At least one column is no item: the one that stands for no exclusion.
        matrix = np.zeros((size, (num_items // _BLOCK + 1) * _BLOCK), dtype=np.int8)
        for start in range(0, num_items, _ROUNDED):
            part = vectors[start : start + _ROUNDED]
            rounded = np.round(part / np.float32(self._step))
            kept = rounded * np.float32(self._step)
            self._longest, lost = max(self._longest, _longest(kept)), max(lost, _longest(part - kept))
            matrix[:, start : start + len(part)] = rounded.T
        self._lost = lost + size * _ROUNDING * self._longest
        self._session = _session(matrix, num_items // _BLOCK, num_threads)

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
        steps = np.maximum(np.abs(queries).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        steps /= np.float32(_ZERO - 1)
        rounded = np.round(queries / steps)
        unsure = _norms(queries) * self._lost + _norms(queries - rounded * steps) * self._longest
        margin = np.ceil(2 * unsure[:, None] / (steps * self._step))
        if not margin.max() < _MAX_MARGIN:
            return None
        feeds = {
            "queries": (rounded + _ZERO).astype(np.uint8),
            "excluded": excluded,
            "k": np.array([k], dtype=np.int64),
            "margin": margin.astype(np.int32),
        }
        lowest, blocks, in_doubt = self._session.run(None, feeds)
        if lowest.min() <= _EXCLUDED:
            return None
        query, first = blocks[:, 0], blocks[:, 1] * _BLOCK
        found = np.flatnonzero(in_doubt)
        if len(found) * _MAX_DOUBT > len(queries) * len(self._vectors):
            return None
        block, column = np.divmod(found, _BLOCK)
        pairs = query[block], first[block] + column
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


def _norms(vectors: Float32Array) -> Float32Array:
    norms: Float32Array = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return norms


def _longest(vectors: Float32Array) -> float:
    return float(_norms(vectors).max(initial=0))


def _session(matrix: NDArray[np.int8], num_whole: int, num_threads: int) -> Any:
    """The scan as a graph: all products, m as the k-th best of the blocks' maxima, and the blocks in doubt.

    Which items are in doubt is told for these blocks alone. The last block is not wholly of items, so it does not count
    for m.
    """
    constants: dict[str, NDArray[Any]] = {
        "matrix": matrix,
        "zero": np.array(_ZERO, dtype=np.uint8),
        "never": np.array([_EXCLUDED], dtype=np.int32),
        "blocked": np.array([0, -1, _BLOCK]),
        "num_whole": np.array([num_whole]),
        "nought": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "last": np.array([-1]),
        "end": np.array([matrix.shape[1]]),
    }
    nodes = [
        Node("MatMulInteger", ["queries", "matrix", "zero"], ["products"]),
        Node("Shape", ["excluded"], ["shape"]),
        Node("Expand", ["never", "shape"], ["nevers"]),
        Node("ScatterElements", ["products", "excluded", "nevers"], ["scores"], {"axis": 1}),
        Node("Reshape", ["scores", "blocked"], ["blocks"]),
        Node("ReduceMax", ["blocks", "two"], ["maxima"], {"keepdims": 0}),
        Node("Slice", ["maxima", "nought", "num_whole", "one"], ["whole"]),
        Node("TopK", ["whole", "k"], ["best", "places"], {"axis": 1}),
        Node("Slice", ["best", "last", "end", "one"], ["kth"]),
        Node("Sub", ["kth", "margin"], ["lowest"]),
        Node("GreaterOrEqual", ["maxima", "lowest"], ["has_doubt"]),
        Node("NonZero", ["has_doubt"], ["pairs"]),
        Node("Transpose", ["pairs"], ["blocks_in_doubt"]),
        Node("GatherND", ["blocks", "blocks_in_doubt"], ["scanned"]),
        Node("Gather", ["pairs", "nought"], ["query"], {"axis": 0}),
        Node("Reshape", ["query", "last"], ["queries_in_doubt"]),
        Node("Gather", ["lowest", "queries_in_doubt"], ["lowest_of_each"], {"axis": 0}),
        Node("GreaterOrEqual", ["scanned", "lowest_of_each"], ["in_doubt"]),
    ]
    inputs = [
        Tensor("queries", "uint8", ["N", matrix.shape[0]]),
        Tensor("excluded", "int64", ["N", "E"]),
        Tensor("k", "int64", [1]),
        Tensor("margin", "int32", ["N", 1]),
    ]
    outputs = [
        Tensor("lowest", "int32", ["N", 1]),
        Tensor("blocks_in_doubt", "int64", ["M", 2]),
        Tensor("in_doubt", "bool", ["M", _BLOCK]),
    ]
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = 1
    options.intra_op_num_threads = num_threads
    # Threads that spin while they wait take the cores from the model and from other requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = write_graph(nodes, constants, inputs, outputs)
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    release_bytes(session)
    return session
