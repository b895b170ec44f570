"""Named arrays to a model on a Triton server and back, for any model: types are told from the arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recgpt.backends.tensors import NamedArrays
from recgpt.backends.triton_connection import TritonConnection
from recgpt.extras import require

_DATA_TYPES = {"int64": "INT64", "float32": "FP32", "bool": "BOOL", "object": "BYTES"}


def triton_inputs(feeds: NamedArrays) -> list[Any]:
    """Inputs of the client library, for its clients of any kind; arrays of objects hold bytes."""
    grpc = require("tritonclient.grpc")
    inputs = []
    for name, array in feeds.items():
        inputs.append(grpc.InferInput(name, list(array.shape), _DATA_TYPES[array.dtype.name]))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def triton_outputs(result: Any) -> NamedArrays:
    """All outputs of an answer of the client library, by name."""
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def infer_by(connection: TritonConnection, *, model_version: str) -> Callable[[str, NamedArrays], NamedArrays]:
    """A function that asks one version of a model, given by name; errors as of ``TritonConnection.call``."""

    def infer(model: str, feeds: NamedArrays) -> NamedArrays:
        what = f"model {model} version {model_version}"
        inputs = triton_inputs(feeds)
        return triton_outputs(
            connection.call(what, "infer", model_name=model, inputs=inputs, model_version=model_version)
        )

    return infer
