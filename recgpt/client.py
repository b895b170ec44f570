"""Recall with the model on a Triton server and the item index here: same methods, same answers as the engine."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from recgpt.backends.triton import TritonBackend
from recgpt.bundle import Bundle
from recgpt.errors import BundleMismatchError
from recgpt.recall.fingerprint import TOLERANCE, fingerprint, fingerprint_distance
from recgpt.recall.recaller import Recaller
from recgpt.types import RecallRequest


class RecallClient(Recaller):
    """Recalls items with the interests computed by a Triton server.

    The item index is searched in this process, on a GPU if there is one. Requests are pinned to the version of the
    models that the bundle was exported with, so model and index can never be of different exports.

    Args:
        url: ``host:port`` of the server's gRPC endpoint.
        bundle: folder that ``export/to_onnx.py`` wrote; only manifest, index, ids and popularity are needed here.
        timeout_s: deadline of each call to the server.
        num_threads: of one search with many queries; None leaves it to Faiss.

    Raises:
        BundleError: the bundle is missing or damaged, or the server's model is not this bundle's.
        ServerUnavailableError: no server answers.
        ModelUnavailableError: the server does not serve this bundle's version of the models.

    Example:
        >>> with RecallClient("localhost:8001", bundle="artifacts/bundle") as client:
        ...     client.recall(history=[12, 99, 7], user_id=3, k=10).item_ids
    """

    def __init__(self, url: str, *, bundle: str | Path, timeout_s: float = 5.0, num_threads: int | None = None) -> None:
        opened = Bundle.open(bundle)
        manifest = opened.manifest
        index, catalogue = opened.index(num_threads=num_threads), opened.catalogue()
        backend = TritonBackend(
            url,
            manifest.model,
            fused=manifest.num_interests,
            model_version=str(manifest.version),
            timeout_s=timeout_s,
        )
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(backend.close)
            super().__init__(backend, index, catalogue, prompt_tuned=manifest.training.is_prompt_tuned)
            backend.check_ready()
            self._check_fingerprint(opened, url)
            on_failure.pop_all()

    def _check_fingerprint(self, bundle: Bundle, url: str) -> None:
        example = bundle.examples()[0]
        request = RecallRequest(history=example.history, user_id=example.user_id)
        expected = np.array(bundle.manifest.fingerprint, dtype=np.float32)
        distance = fingerprint_distance(fingerprint(self.backend, self.catalogue, request), expected)
        if not distance <= TOLERANCE:
            raise BundleMismatchError(
                f"the server at {url} runs another model than the one that bundle {bundle.path} (version "
                f"{bundle.manifest.version}) was exported with: its answer to the bundle's test request is off by "
                f"{distance:.0%}; serve the triton_models/ of the same export, or pass the bundle that is served"
            )
