"""The work that no exact generation by dense scores can avoid: J - 1 products of interests with the item matrix.

Recall cannot avoid the search for J lists either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from recgpt.bench.searchers import SCAN, searchers
from recgpt.bench.timing import Case, Sample, interleave
from recgpt.extras import require
from recgpt.types import Float32Array

Product = Callable[[Float32Array], object]
"""(B, D) -> the scores of all items, in the library's own array."""

FLOOR = "floor: "

_OPSET, _IR_VERSION = 20, 10
_NUM_TRIED = 5


def products(item_matrix: Float32Array, *, num_threads: int) -> Mapping[str, Product]:
    """[B, D] x [D, V] by each library at hand, the matrix in the layout that it likes best.

    ONNX Runtime takes its threads from here, the others theirs from the process: see ``pin_threads``.
    """
    transposed = np.ascontiguousarray(item_matrix.T)
    tensor = torch.from_numpy(item_matrix)
    session = _matmul_session(transposed, num_threads)
    return {
        "torch": lambda interest: torch.from_numpy(interest) @ tensor.T,
        "numpy": lambda interest: interest @ transposed,
        "onnxruntime": lambda interest: session.run(None, {"interest": interest}),
    }


def time_products(product: Product, interest: Float32Array, number: int) -> Sample:
    """Times ``number`` products one after the other."""
    started = time.perf_counter_ns()
    for _ in range(number):
        product(interest)
    return Sample(total_ns=time.perf_counter_ns() - started)


class RecallFloor:
    """J - 1 products and the search for J lists, each by the fastest library at hand; nothing else, nothing left out.

    Args:
        vectors: (V, D) of the items.
        num_interests: J.
        k: items in each list.
        num_threads: of every library; the process has been given as many by ``pin_threads``.
    """

    def __init__(self, vectors: Float32Array, *, num_interests: int, k: int, num_threads: int) -> None:
        self._size = vectors.shape[1]
        self._num_interests = num_interests
        self._k = k
        self._products = products(vectors, num_threads=num_threads)
        ways = searchers(vectors, num_threads=num_threads)
        self._searches = {name: search for name, search in ways.items() if name != SCAN}

    def case(self, batch: int) -> tuple[str, Case]:
        """The name of the row, which says who was fastest with so many requests, and what to time."""
        queries = np.random.default_rng(0).standard_normal((self._num_interests * batch, self._size)).astype(np.float32)

        def multiply(name: str, number: int) -> Sample:
            return time_products(self._products[name], queries[:batch], self._num_interests - 1)

        def search(name: str, number: int) -> Sample:
            started = time.perf_counter_ns()
            self._searches[name](queries, self._k)
            return Sample(total_ns=time.perf_counter_ns() - started)

        product, searcher = _fastest(multiply, self._products), _fastest(search, self._searches)

        def call(number: int) -> Sample:
            stages = {"interests": multiply(product, number).total_ns, "search": search(searcher, number).total_ns}
            return Sample(total_ns=sum(stages.values()), stages_ns=stages)

        return f"{FLOOR}{product}; {searcher}", call


def _fastest(call: Callable[[str, int], Sample], names: Mapping[str, object]) -> str:
    samples = interleave({name: partial(call, name) for name in names}, num_rounds=_NUM_TRIED, num_warmup=1)
    return min(samples, key=lambda name: median(sample.total_ns for sample in samples[name]))


def _matmul_session(matrix: Float32Array, num_threads: int) -> Any:
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["interest", "matrix"], ["scores"])],
        "product",
        [helper.make_tensor_value_info("interest", TensorProto.FLOAT, ["B", matrix.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", matrix.shape[1]])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
