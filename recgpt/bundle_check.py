"""Whether a bundle is whole, and whether what runs its graphs gives the answer that its manifest expects."""

from __future__ import annotations

import numpy as np

from recgpt.asking import Steps, drive
from recgpt.backends.asks import ask_backend
from recgpt.backends.base import Backend, Model
from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.bundle import Bundle
from recgpt.errors import BundleError, BundleMismatchError
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.fingerprint import TOLERANCE, fingerprint_distance, fingerprint_steps
from recgpt.types import RecallRequest


def check_fingerprint(backend: Backend, catalogue: Catalogue, bundle: Bundle, *, who: str) -> None:
    """BundleMismatchError unless the backend answers the bundle's test request as the exported model did.

    Args:
        backend: runs what should be the bundle's model.
        catalogue: of the bundle.
        bundle: holds the request and the answer.
        who: runs the model, for the message.
    """
    drive(fingerprint_check(backend, catalogue, bundle, who=who), lambda ask: ask_backend(backend, ask))


def fingerprint_check(model: Model, catalogue: Catalogue, bundle: Bundle, *, who: str) -> Steps[None]:
    """``check_fingerprint``, asked of whoever answers for the model."""
    example = bundle.examples()[0]
    request = RecallRequest(history=example.history, user_id=example.user_id)
    expected = np.array(bundle.manifest.fingerprint, dtype=np.float32)
    found = yield from fingerprint_steps(model, catalogue, request)
    distance = fingerprint_distance(found, expected)
    if not distance <= TOLERANCE:
        raise another_model(bundle, who=who, how=f"its answer to the bundle's test request is off by {distance:.0%}")


def another_model(bundle: Bundle, *, who: str, how: str) -> BundleMismatchError:
    """The error of who runs another model than the bundle's, and how that shows."""
    return BundleMismatchError(
        f"{who} runs another model than the one that bundle {bundle.path} (version {bundle.manifest.version}) was "
        f"exported with: {how}; serve the triton_models/ of the same export, or pass the bundle that is served"
    )


def check_onnx(bundle: Bundle) -> None:
    """BundleError unless the bundle holds graphs that the engine and Triton can run."""
    if bundle.manifest.graph_format != "onnx":
        raise BundleError(
            f"{bundle.path} holds {bundle.manifest.graph_format} graphs; expected what export/to_onnx.py writes"
        )


def check_bundle(bundle: Bundle) -> None:
    """Reads all of a bundle as its users will, runs its graphs, and compares the answer.

    Raises:
        BundleError: a file is missing or altered, parts do not belong together, or the model answers otherwise.
        DependencyError: ONNX Runtime or Faiss is not installed.
    """
    check_onnx(bundle)
    bundle.check_files()
    bundle.index()
    backend = OnnxRuntimeBackend(bundle.graphs(), bundle.manifest.model, num_threads=1)
    try:
        check_fingerprint(backend, bundle.catalogue(), bundle, who="ONNX Runtime")
    finally:
        backend.close()
