"""A Triton backend of the name ``onnxruntime``, in Python, for servers that come without NVIDIA's own.

Triton takes a backend folder that holds a ``model.py`` for a backend written in Python, so that a model repository made
for the native backend is served unchanged. Knows nothing of this package: it runs inside the server's Python.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

# ONNX Runtime's exceptions share no base class of their own.
_ORT_ERRORS: tuple[type[Exception], ...] = (
    *(value for value in vars(ort_state).values() if isinstance(value, type) and issubclass(value, Exception)),
    RuntimeError,
    TypeError,
    ValueError,
)

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"

Arrays = dict[str, Any]


class TritonPythonModel:
    """One instance of one version of one model."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        name = config.get("default_model_filename") or "model.onnx"
        path = os.path.join(args["model_repository"], args["model_version"], name)
        self._session = ort.InferenceSession(path, _options(config), providers=_providers(args))
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._outputs = [node.name for node in self._session.get_outputs()]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers every request, in order; those of equal shapes run together."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[tuple[Any, ...], list[int]] = {}
        feeds: list[Arrays] = []
        for place, request in enumerate(requests):
            arrays = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self._inputs}
            missing = [name for name, tensor in arrays.items() if tensor is None]
            feeds.append({} if missing else {name: tensor.as_numpy() for name, tensor in arrays.items()})
            if missing:
                responses[place] = _failure(f"inputs {missing} are missing; expected {self._inputs}")
                continue
            key = tuple((array.shape[1:], array.dtype.str) for array in feeds[place].values())
            groups.setdefault(key, []).append(place)
        for places in groups.values():
            answers = self._answer([feeds[place] for place in places], [requests[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                responses[place] = answer
        return responses

    def _answer(self, feeds: list[Arrays], requests: list[Any]) -> list[Any]:
        joined = (
            feeds[0]
            if len(feeds) == 1
            else {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
        )
        wanted = {name for request in requests for name in request.requested_output_names()}
        names = [name for name in self._outputs if name in wanted]
        try:
            outputs = dict(zip(names, self._session.run(names, joined), strict=True))
        except _ORT_ERRORS as error:
            if len(feeds) == 1:
                return [_failure(str(error))]
            # One bad request must not fail the others that happened to be batched with it.
            return [self._answer([feed], [request])[0] for feed, request in zip(feeds, requests, strict=True)]
        ends = np.cumsum([len(feed[self._inputs[0]]) for feed in feeds])
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, outputs[name][end - len(feed[self._inputs[0]]) : end]) for name in names]
            )
            for feed, end in zip(feeds, ends, strict=True)
        ]

    def finalize(self) -> None:
        del self._session


def _options(config: dict[str, Any]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    parameters = config.get("parameters", {})
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", {}).get("string_value", "0"))
    # Each model has a process and threads of its own; threads that spin while they wait would take each other's cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(args: dict[str, str]) -> list[Any]:
    if args["model_instance_kind"] == "GPU" and _CUDA in ort.get_available_providers():
        return [(_CUDA, {"device_id": args["model_instance_device_id"]}), _CPU]
    return [_CPU]


def _failure(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
