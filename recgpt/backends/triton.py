"""The exported graphs on a Triton server, over gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recgpt.backends.base import ModelSpec
from recgpt.backends.graph_backend import GraphBackend
from recgpt.backends.tensors import NamedArrays
from recgpt.backends.triton_connection import TritonConnection
from recgpt.errors import ModelUnavailableError, ServerError, ServerUnavailableError
from recgpt.extras import require
from recgpt.signature import DECODE, PREFILL, GraphSpec, TensorSpec, interests_spec, recall_spec

_MIN_WIDTH = 8

_DATA_TYPES = {"int64": "INT64", "float32": "FP32"}


@dataclass(frozen=True, kw_only=True)
class ModelStatistics:
    """What one model has done since the server started; times are sums over requests.

    Attributes:
        num_inferences: rows answered.
        num_executions: runs of the graph; fewer than the rows where batching took effect.
        num_failures: requests refused.
        queue_ns: waiting to be batched and run.
        compute_input_ns: getting inputs together.
        compute_infer_ns: running the graph.
        compute_output_ns: taking outputs apart.
    """

    num_inferences: int
    num_executions: int
    num_failures: int
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int


class TritonBackend(GraphBackend):
    """Runs the graphs on a Triton server. Safe to call from several threads.

    Histories, exclusions and caches are padded to a few widths, since the server batches requests of equal shapes only.

    Args:
        url: ``host:port`` of the server's gRPC endpoint; nothing is sent before the first call.
        spec: sizes of the exported model.
        fused: the J for which the server has ``interests_J``.
        model_version: the one version of the models that is asked.
        timeout_s: deadline of each call to the server.
        recalls: the J for which the server has ``recall_J``.

    Raises:
        ConfigError: the address is not of the form ``host:port``.
        DependencyError: the client library is not installed.
    """

    def __init__(
        self,
        url: str,
        spec: ModelSpec,
        *,
        fused: Iterable[int],
        model_version: str,
        timeout_s: float = 5.0,
        recalls: Iterable[int] = (),
    ) -> None:
        super().__init__(spec, fused, recalls)
        self._url = url
        self._connection = TritonConnection(url, timeout_s=timeout_s)
        self._call = self._connection.call
        self._version = model_version
        self._grpc = require("tritonclient.grpc")
        self._max_batch_sizes: dict[str, int] = {}

    def check_ready(self) -> None:
        """Asks the server for every model that may be needed, in the version that is needed.

        Raises:
            ServerUnavailableError: no server answers, or it is not ready.
            ModelUnavailableError: it does not serve a model, or not in this version; says what it has.
        """
        names = [PREFILL.name, DECODE.name, *(interests_spec(number).name for number in sorted(self._fused))]
        names += [recall_spec(number).name for number in sorted(self._recalls)]
        missing = [
            name
            for name in names
            if not self._call(f"asking for {name}", "is_model_ready", model_name=name, model_version=self._version)
        ]
        if missing:
            raise ModelUnavailableError(
                f"the server at {self._url} does not serve {', '.join(missing)} in version {self._version}; it has "
                f"{self._served()}; serve the triton_models/ of this export, or use the bundle that is served"
            )
        if not self._call("asking whether it is ready", "is_server_ready"):
            raise ServerUnavailableError(f"the server at {self._url} is not ready; wait, or see its log")

    def statistics(self) -> dict[str, ModelStatistics]:
        """Counts and times of each model in this backend's version, by name.

        Raises:
            ServerError: the server refuses.
        """
        answer = self._call("asking for statistics", "get_inference_statistics")
        return {model.name: _statistics(model) for model in answer.model_stats if model.version == self._version}

    def close(self) -> None:
        """Closes the connection; calling it twice is harmless."""
        self._connection.close()

    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        sizes = axis_sizes(graph, feeds)
        widened = self._widened(graph, feeds)
        num_rows = sizes["B"]
        step = self._max_batch_size(graph.name) if num_rows > 1 else 1
        parts = [
            self._infer(graph, {name: array[start : start + step] for name, array in widened.items()})
            for start in range(0, max(num_rows, 1), step)
        ]
        joined = parts[0] if len(parts) == 1 else _joined(graph, parts)
        return {tensor.name: _narrowed(joined[tensor.name], tensor, sizes) for tensor in graph.outputs}

    def _widened(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        """Pads history, cache and exclusions with zeros to the next width of the ladder; new tokens are all real."""
        highest = {"T": self._spec.max_length, "P": self._spec.max_length, "E": None}
        widened = {}
        for tensor in graph.inputs:
            array = feeds[tensor.name]
            axes = zip(tensor.axes, array.shape, strict=True)
            missing = [ladder(size, highest[axis]) - size if axis in highest else 0 for axis, size in axes]
            widened[tensor.name] = np.pad(array, [(0, number) for number in missing]) if any(missing) else array
        return widened

    def _infer(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        inputs = []
        for tensor in graph.inputs:
            array = feeds[tensor.name]
            inputs.append(self._grpc.InferInput(tensor.name, list(array.shape), _DATA_TYPES[tensor.dtype]))
            inputs[-1].set_data_from_numpy(array)
        result = self._call(
            f"model {graph.name} version {self._version}",
            "infer",
            model_name=graph.name,
            inputs=inputs,
            model_version=self._version,
            outputs=[self._grpc.InferRequestedOutput(tensor.name) for tensor in graph.outputs],
        )
        return {tensor.name: result.as_numpy(tensor.name) for tensor in graph.outputs}

    def _max_batch_size(self, name: str) -> int:
        if name not in self._max_batch_sizes:
            what = f"asking for the settings of model {name} version {self._version}"
            answer = self._call(what, "get_model_config", model_name=name, model_version=self._version)
            self._max_batch_sizes[name] = max(1, answer.config.max_batch_size)
        return self._max_batch_sizes[name]

    def _served(self) -> str:
        try:
            index = self._call("asking for its models", "get_model_repository_index")
        except ServerError as error:
            return f"models it does not tell of ({error})"
        ready = [f"{model.name} {model.version}" for model in index.models if model.state == "READY"]
        return ", ".join(ready) or "no model that is ready"


def ladder(width: int, highest: int | None = None) -> int:
    """The next power of two, from 8 on, but not above ``highest`` unless the width is itself."""
    step = max(_MIN_WIDTH, 1 << (width - 1).bit_length())
    return step if highest is None else max(width, min(step, highest))


def axis_sizes(graph: GraphSpec, feeds: NamedArrays) -> dict[str | int, int]:
    """The size of each axis letter of a graph's inputs."""
    return {
        axis: size for tensor in graph.inputs for axis, size in zip(tensor.axes, feeds[tensor.name].shape, strict=True)
    }


def _joined(graph: GraphSpec, parts: Sequence[NamedArrays]) -> NamedArrays:
    return {tensor.name: np.concatenate([part[tensor.name] for part in parts]) for tensor in graph.outputs}


def _narrowed(array: NDArray[Any], tensor: TensorSpec, sizes: Mapping[str | int, int]) -> NDArray[Any]:
    """Cuts off what padding added to an output; real tokens come first in each row of a cache."""
    wanted = {"T": sizes.get("T"), "P+S": sizes.get("P", 0) + sizes.get("S", 0)}
    return array[tuple(slice(wanted.get(axis)) if isinstance(axis, str) else slice(None) for axis in tensor.axes)]


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
