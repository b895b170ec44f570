"""Recall with the model on a Triton server and the item index here: same methods, same answers as the engine."""

from __future__ import annotations

import contextlib
from pathlib import Path

from recgpt.backends.triton import TritonBackend
from recgpt.bundle import Bundle
from recgpt.bundle_check import check_fingerprint
from recgpt.live import LiveRecaller
from recgpt.recall.recaller import Recaller


class RecallClient(LiveRecaller):
    """Recalls items with the interests computed by a Triton server.

    The item index is searched in this process, on a GPU if there is one. Requests are pinned to the version of the
    models that the bundle was exported with, so model and index can never be of different exports.

    Args:
        url: ``host:port`` of the server's gRPC endpoint.
        bundle: folder that ``export/to_onnx.py`` wrote, or a store that ``recgpt bundle publish`` keeps; only manifest,
            index, ids, popularity and examples are needed here.
        timeout_s: deadline of each call to the server.
        num_threads: of one search with many queries; None leaves it to Faiss.
        follow_s: how often to look for a newer bundle in the store; None leaves it to ``reload``.

    Raises:
        BundleError: the bundle is missing or damaged, or the server's model is not this bundle's.
        ServerUnavailableError: no server answers.
        ModelUnavailableError: the server does not serve this bundle's version of the models.

    Example:
        >>> with RecallClient("localhost:8001", bundle="artifacts/bundle") as client:
        ...     client.recall(history=[12, 99, 7], user_id=3, k=10).item_ids
    """

    def __init__(
        self,
        url: str,
        *,
        bundle: str | Path,
        timeout_s: float = 5.0,
        num_threads: int | None = None,
        follow_s: float | None = None,
    ) -> None:
        def open_bundle(opened: Bundle) -> Recaller:
            index, catalogue = opened.index(num_threads=num_threads), opened.catalogue()
            backend = served_model(opened, url, timeout_s=timeout_s)
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(backend.close)
                prompt_tuned = opened.manifest.training.is_prompt_tuned
                recaller = Recaller(backend, index, catalogue, prompt_tuned=prompt_tuned)
                backend.check_ready()
                check_fingerprint(backend, catalogue, opened, who=f"the server at {url}")
                on_failure.pop_all()
            return recaller

        super().__init__(bundle, open_bundle, follow_s=follow_s)


def served_model(bundle: Bundle, url: str, *, timeout_s: float) -> TritonBackend:
    """A bundle's model on a Triton server, pinned to the bundle's version of it; nothing is sent yet."""
    manifest = bundle.manifest
    return TritonBackend(
        url,
        manifest.model,
        fused=manifest.num_interests,
        model_version=str(manifest.model_version),
        timeout_s=timeout_s,
    )
