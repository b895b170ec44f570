"""The work that no exact generation by dense scores can avoid: J - 1 products of interests with the item matrix."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from recgpt.bench.timing import Sample
from recgpt.extras import require
from recgpt.types import Float32Array

Product = Callable[[Float32Array], object]
"""(B, D) -> the scores of all items, in the library's own array."""

_OPSET, _IR_VERSION = 20, 10


def products(item_matrix: Float32Array, *, num_threads: int) -> Mapping[str, Product]:
    """[B, D] x [D, V] by each library at hand, the matrix in the layout that it likes best.

    numpy takes the number of threads from the environment of the process; the others from here.
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
