"""The engine as a model of Triton's Python backend: ONNX Runtime and the item index side by side.

Runs inside the server's Python, in which this package has to be installed, and from a folder that holds the bundle:

    <version>/model.py  <version>/bundle/  <version>/store.json (items deleted since)
"""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from recgpt.engine import Engine
from recgpt.errors import RecGPTError, RequestError
from recgpt.one_hop.answering import answer_all
from recgpt.one_hop.engine_codec import EngineCodec
from recgpt.one_hop.remote import marked
from recgpt.recall.core import PretrainedOnlyWarning

# How often to look for items that were deleted.
FOLLOW_S = 2.0


class TritonPythonModel:
    """One instance of one version."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        # The caller asked for several steps; the server's log is no place to answer.
        warnings.simplefilter("ignore", PretrainedOnlyWarning)
        folder = Path(args["model_repository"], args["model_version"], "bundle")
        num_threads = int(parameters["num_threads"]["string_value"])
        self._engine = Engine.load(folder, num_threads=num_threads, follow_s=FOLLOW_S)
        self._codec = EngineCodec.of(self._engine.catalogue)
        # What is loaded stays; looking through it for garbage, time and again, would hold up requests.
        gc.collect()
        gc.freeze()

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers all requests that were waiting, in order, whatever their shapes, by one recall."""
        calls = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        return [_response(result) for result in answer_all(self._engine, self._codec, calls)]

    def finalize(self) -> None:
        self._engine.close()


def _response(result: Any) -> Any:
    if not isinstance(result, RecGPTError):
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in result.items()])
    if isinstance(result, RequestError):
        kind, message = pb_utils.TritonError.INVALID_ARG, marked(result)
    else:
        kind, message = pb_utils.TritonError.INTERNAL, str(result)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, kind))
