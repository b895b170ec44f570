"""Recall in this process: ONNX Runtime for the model, Faiss for the items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from recgpt.backends.onnxruntime import CPU, OnnxRuntimeBackend
from recgpt.bundle import Bundle
from recgpt.bundle_check import check_fingerprint, check_onnx
from recgpt.live import LiveRecaller
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.index_ann import openmp_threads
from recgpt.recall.layout import Layout, layout_of, least_share
from recgpt.recall.recaller import Recaller
from recgpt.recall.shares import Shares, check_num_threads


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
            num_threads: of one call; None takes what ONNX Runtime and Faiss would. They share many requests out, or
                work together inside runs and searches, by what was measured to be faster for the catalogue.
            providers: ONNX Runtime execution providers in order of preference; None takes CUDA if there, else CPU.
            follow_s: how often to look for a newer bundle in the store; None leaves it to ``reload``.
            layout: ``fused``, ``index`` or ``graph``, who looks through the catalogue; ``auto`` takes what was measured
                to be the fastest for the catalogue and the batch. The answers are the same.

        Raises:
            BundleError: the bundle is missing, damaged, or its parts do not belong together.
            DependencyError: ONNX Runtime or Faiss is not installed, or installed twice.
            ConfigError: there is no such layout, or ``num_threads`` or ``providers`` cannot be had on this machine.
        """
        chosen = layout_of(layout)
        check_num_threads(num_threads)

        def open_bundle(opened: Bundle) -> Recaller:
            catalogue = opened.catalogue()
            least = least_share(catalogue.num_recallable, is_exact=opened.is_exact)
            if least is None:
                return open_recaller(opened, catalogue, layout=chosen, num_threads=num_threads, providers=providers)
            shares = Shares(num_threads or openmp_threads(), least)
            return open_recaller(opened, catalogue, layout=chosen, num_threads=1, providers=providers, shares=shares)

        return cls(bundle, open_bundle, follow_s=follow_s)


def open_recaller(
    bundle: Bundle,
    catalogue: Catalogue,
    *,
    layout: Layout,
    num_threads: int | None,
    providers: Sequence[str] | None = None,
    shares: Shares | None = None,
) -> Recaller:
    """Checks a bundle's files, and loads graphs and index; errors as of ``Engine.load``.

    Args:
        bundle: opened.
        catalogue: what the bundle gave; reading it again would hash its files again.
        layout: who looks through the catalogue.
        num_threads: inside each run and search; None leaves it to ONNX Runtime and Faiss.
        providers: as of ``Engine.load``.
        shares: shares calls out; only where graphs run on the CPU.
    """
    check_onnx(bundle)
    index = bundle.index(num_threads=num_threads)
    uses_graph = layout.may_use_graph(index.num_items, is_exact=index.is_exact)
    recalls = bundle.recall_graphs() | bundle.recall_scan_graphs() if uses_graph else {}
    backend = OnnxRuntimeBackend(
        bundle.graphs() | recalls,
        bundle.manifest.model,
        num_threads=num_threads,
        providers=providers,
        item_matrix=bundle.graph_matrix(index),
    )
    recaller = Recaller(
        backend,
        index,
        catalogue,
        prompt_tuned=bundle.manifest.training.is_prompt_tuned,
        layout=layout,
        in_graph=backend,
        shares=shares if backend.provider == CPU else None,
    )
    check_fingerprint(backend, catalogue, bundle, who="ONNX Runtime")
    return recaller
