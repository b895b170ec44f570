"""Recall in this process: ONNX Runtime for the model, Faiss for the items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.bundle import Bundle
from recgpt.bundle_check import check_fingerprint, check_onnx
from recgpt.live import LiveRecaller
from recgpt.recall.layout import Layout, layout_of
from recgpt.recall.recaller import Recaller


class Engine(LiveRecaller):
    """Recalls items in process from a bundle.

    Example:
        >>> with Engine.load("artifacts/bundle") as engine:
        ...     candidates = engine.recall(history=[12, 99, 7], user_id=3, k=10)
        ...     candidates.item_ids
    """

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        num_threads: int | None = None,
        providers: Sequence[str] | None = None,
        follow_s: float | None = None,
        layout: Layout | str = Layout.AUTO,
    ) -> Self:
        """Opens a bundle, checks its files, and loads graphs and index.

        Args:
            bundle: folder that ``export/to_onnx.py`` wrote, or a store that ``recgpt bundle publish`` keeps.
            num_threads: of one call, in model and index; None leaves it to ONNX Runtime and Faiss.
            providers: ONNX Runtime execution providers in order of preference; None takes CUDA if there, else CPU.
            follow_s: how often to look for a newer bundle in the store; None leaves it to ``reload``.
            layout: ``fused``, ``index`` or ``graph``, who looks through the catalogue; ``auto`` takes what was measured
                to be the fastest for the catalogue and the batch. The answers are the same.

        Raises:
            BundleError: the bundle is missing, damaged, or its parts do not belong together.
            DependencyError: ONNX Runtime or Faiss is not installed, or installed twice.
            ConfigError: there is no such layout.
        """
        chosen = layout_of(layout)

        def open_bundle(opened: Bundle) -> Recaller:
            check_onnx(opened)
            index, catalogue = opened.index(num_threads=num_threads), opened.catalogue()
            uses_graph = chosen.may_use_graph(index.num_items, is_exact=index.is_exact)
            recalls = opened.recall_graphs() | opened.recall_scan_graphs() if uses_graph else {}
            backend = OnnxRuntimeBackend(
                opened.graphs() | recalls,
                opened.manifest.model,
                num_threads=num_threads,
                providers=providers,
                item_matrix=opened.graph_matrix(index),
            )
            recaller = Recaller(
                backend,
                index,
                catalogue,
                prompt_tuned=opened.manifest.training.is_prompt_tuned,
                layout=chosen,
                in_graph=backend,
            )
            check_fingerprint(backend, catalogue, opened, who="ONNX Runtime")
            return recaller

        return cls(bundle, open_bundle, follow_s=follow_s)
