"""Triton's messages: a question to a message, a message to an answer. Sends nothing."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recgpt.backends.tensors import NamedArrays
from recgpt.backends.triton_rpc import (
    Infer,
    LoadModel,
    MaxBatchSize,
    ModelReady,
    ModelStatistics,
    ReadyModels,
    Rpc,
    ServerReady,
    Statistics,
    UnloadModel,
)
from recgpt.errors import ServerError
from recgpt.extras import require
from recgpt.signature import STRING, GraphSpec

_DATA_TYPES = {"int64": "INT64", "float32": "FP32", "bool": "BOOL", "string": "BYTES"}


class TritonCodec:
    """Writes requests and reads responses of Triton's gRPC protocol.

    Raises:
        DependencyError: the client library, whose messages these are, is not installed.
    """

    def __init__(self) -> None:
        self._messages = require("tritonclient.grpc").service_pb2

    def encode(self, rpc: Rpc) -> tuple[str, Any]:
        """Name of the method of Triton's service, and its request."""
        messages = self._messages
        match rpc:
            case Infer():
                return "ModelInfer", self._infer(rpc)
            case ModelReady(name, version):
                return "ModelReady", messages.ModelReadyRequest(name=name, version=version)
            case ServerReady():
                return "ServerReady", messages.ServerReadyRequest()
            case MaxBatchSize(name, version):
                return "ModelConfig", messages.ModelConfigRequest(name=name, version=version)
            case ReadyModels():
                return "RepositoryIndex", messages.RepositoryIndexRequest()
            case Statistics():
                return "ModelStatistics", messages.ModelStatisticsRequest()
            case LoadModel(name):
                return "RepositoryModelLoad", messages.RepositoryModelLoadRequest(model_name=name)
            case UnloadModel(name):
                return "RepositoryModelUnload", messages.RepositoryModelUnloadRequest(model_name=name)

    def decode(self, rpc: Rpc, response: Any) -> Any:
        """The answer to the question; ServerError if an inference's response does not hold what was asked for."""
        match rpc:
            case Infer():
                return _outputs(rpc.graph, response)
            case ModelReady() | ServerReady():
                return bool(response.ready)
            case MaxBatchSize():
                return max(1, response.config.max_batch_size)
            case ReadyModels():
                return [(model.name, model.version) for model in response.models if model.state == "READY"]
            case Statistics(version):
                return {model.name: _statistics(model) for model in response.model_stats if model.version == version}
            case LoadModel() | UnloadModel():
                return None

    def _infer(self, rpc: Infer) -> Any:
        request = self._messages.ModelInferRequest(model_name=rpc.graph.name, model_version=rpc.version)
        for tensor in rpc.graph.inputs:
            if tensor.optional and tensor.name not in rpc.feeds:
                continue
            array = rpc.feeds[tensor.name]
            request.inputs.add(name=tensor.name, datatype=_DATA_TYPES[tensor.dtype], shape=array.shape)
            request.raw_input_contents.append(_content(array, tensor.dtype))
        for tensor in rpc.graph.outputs:
            request.outputs.add(name=tensor.name)
        return request


def _content(array: NDArray[Any], dtype: str) -> bytes:
    """An array's bytes as Triton wants them: strings one after the other, each behind its length in 4 bytes."""
    if dtype != STRING:
        return np.ascontiguousarray(array, dtype=dtype).tobytes()
    return b"".join(struct.pack("<I", len(text)) + text for text in array.ravel().tolist())


def _outputs(graph: GraphSpec, response: Any) -> NamedArrays:
    """Read-only arrays over the bytes of the response; arrays of bytes objects where it has strings."""
    dtypes = {tensor.name: tensor.dtype for tensor in graph.outputs}
    found = {}
    for output, content in zip(response.outputs, response.raw_output_contents, strict=False):
        dtype, shape = dtypes.get(output.name), tuple(output.shape)
        if dtype is None or output.datatype != _DATA_TYPES[dtype]:
            continue
        array = _strings(content) if dtype == STRING else _numbers(content, dtype)
        if array.size == math.prod(shape):
            found[output.name] = array.reshape(shape)
    if len(found) != len(dtypes):
        got = ", ".join(f"{output.name} {output.datatype} {list(output.shape)}" for output in response.outputs)
        raise ServerError(
            f"model {graph.name} answered with {got or 'nothing'}; expected {', '.join(dtypes)}, of their whole size; "
            f"see the server's log"
        )
    return found


def _numbers(content: bytes, dtype: str) -> NDArray[Any]:
    whole = len(content) // np.dtype(dtype).itemsize
    return np.frombuffer(content, dtype=dtype, count=whole)


def _strings(content: bytes) -> NDArray[Any]:
    """As many strings as are there whole."""
    texts, place = [], 0
    while place + 4 <= len(content):
        (length,) = struct.unpack_from("<I", content, place)
        place += 4 + length
        if place <= len(content):
            texts.append(content[place - length : place])
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    return array


def _statistics(model: Any) -> ModelStatistics:
    stats = model.inference_stats
    return ModelStatistics(
        num_inferences=model.inference_count,
        num_executions=model.execution_count,
        num_failures=stats.fail.count,
        queue_ns=stats.queue.ns,
        compute_input_ns=stats.compute_input.ns,
        compute_infer_ns=stats.compute_infer.ns,
        compute_output_ns=stats.compute_output.ns,
    )
