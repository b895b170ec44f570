"""Ways to find the k best items exactly, the ones that were tried and are not used among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import faiss
import numpy as np
import onnxruntime

from recgpt.bench.topk import TopKIndex
from recgpt.recall.index import ItemIndex
from recgpt.recall.onnx_bytes import Node, Tensor, write_graph
from recgpt.types import Float32Array, Int64Array

SCAN = "ItemIndex"
FAISS = "Faiss flat"

Search = Callable[[Float32Array, int], tuple[Int64Array, Float32Array]]
"""Queries (N, D) and k -> positions and scores, both (N, k), best first."""

_BLOCK = 16


def searchers(vectors: Float32Array, *, num_threads: int) -> Mapping[str, Search]:
    """Every way over item vectors (V, D), by its name.

    ONNX Runtime and ``ItemIndex`` take their threads from here, the others from the process: see ``pin_threads``.
    """
    matrix = np.concatenate([np.zeros_like(vectors[:1]), vectors])
    return {
        FAISS: _faiss_search(vectors, least_reservoir=100),  # as Faiss comes
        "Faiss flat, reservoir": _faiss_search(vectors, least_reservoir=1),
        "ONNX Runtime, float32 and TopK": _onnx_search(vectors, num_threads=num_threads),
        "numpy, argpartition": lambda queries, k: _numpy_search(vectors, queries, k),
        "torch, topk": _index_search(TopKIndex.build(matrix, num_threads=num_threads)),
        SCAN: _index_search(ItemIndex.build(matrix, num_threads=num_threads)),
    }


def _index_search(index: ItemIndex) -> Search:
    def search(queries: Float32Array, k: int) -> tuple[Int64Array, Float32Array]:
        rows, scores = index.search(queries, k)
        return rows - 1, scores

    return search


def _faiss_search(vectors: Float32Array, *, least_reservoir: int) -> Search:
    """Faiss's own index, with a copy of the vectors of its own, so that no way finds them in a cache for another.

    From k = ``least_reservoir`` on it keeps candidates in a reservoir, below in a heap.
    """
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)

    def search(queries: Float32Array, k: int) -> tuple[Int64Array, Float32Array]:
        usual = faiss.cvar.distance_compute_min_k_reservoir
        faiss.cvar.distance_compute_min_k_reservoir = least_reservoir
        try:
            scores, positions = flat.search(queries, k)
        finally:
            faiss.cvar.distance_compute_min_k_reservoir = usual
        return positions, scores

    return search


def _numpy_search(vectors: Float32Array, queries: Float32Array, k: int) -> tuple[Int64Array, Float32Array]:
    scores = queries @ vectors.T
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    found = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-found, axis=1)
    return np.take_along_axis(best, order, axis=1), np.take_along_axis(found, order, axis=1)


def _onnx_search(vectors: Float32Array, *, num_threads: int) -> Search:
    """Products in float32, the k best blocks by their maxima, the k best in these; no bound is needed."""
    num_items, size = vectors.shape
    num_blocks = -(-num_items // _BLOCK)
    # Minus infinity, added to a product, leaves out the columns that only fill the last block up.
    matrix = np.zeros((size, num_blocks * _BLOCK), dtype=np.float32)
    matrix[:, :num_items] = vectors.T
    filling = np.zeros(num_blocks * _BLOCK, dtype=np.float32)
    filling[num_items:] = -np.inf
    nodes = [
        Node("MatMul", ["queries", "matrix"], ["products"]),
        Node("Add", ["products", "filling"], ["scores"]),
        Node("Reshape", ["scores", "blocked"], ["blocks"]),
        Node("ReduceMax", ["blocks", "one"], ["maxima"], {"keepdims": 0}),
        Node("Min", ["k", "num_blocks"], ["few"]),
        Node("TopK", ["maxima", "few"], ["tops", "best"], {"axis": 1, "sorted": 0}),
        Node("Unsqueeze", ["best", "two"], ["first"]),
        Node("Add", ["first", "columns"], ["inside"]),
        Node("Reshape", ["inside", "flat"], ["places"]),
        Node("GatherElements", ["scores", "places"], ["found"], {"axis": 1}),
        Node("TopK", ["found", "k"], ["values", "order"], {"axis": 1}),
        Node("GatherElements", ["places", "order"], ["positions"], {"axis": 1}),
    ]
    constants = {
        "matrix": matrix,
        "filling": filling,
        "blocked": np.array([0, _BLOCK, num_blocks]),
        "one": np.array([1]),
        "two": np.array([2]),
        "num_blocks": np.array([num_blocks]),
        "columns": (np.arange(_BLOCK) * num_blocks)[None, None],
        "flat": np.array([0, -1]),
    }
    content = write_graph(
        nodes,
        constants,
        [Tensor("queries", "float32", ["N", size]), Tensor("k", "int64", [1])],
        [Tensor("positions", "int64", ["N", "K"]), Tensor("values", "float32", ["N", "K"])],
    )
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads, options.intra_op_num_threads = 1, num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def search(queries: Float32Array, k: int) -> tuple[Int64Array, Float32Array]:
        positions, values = session.run(None, {"queries": queries, "k": np.array([k])})
        return positions, values

    return search
