"""The traced graphs, run by PyTorch: what libtorch would answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from recgpt.backends.base import ModelSpec
from recgpt.backends.graph_backend import GraphBackend
from recgpt.backends.tensors import NamedArrays, fused_numbers
from recgpt.backends.torch_graphs import run_graph
from recgpt.graphs.torchscript_writer import load_torchscript
from recgpt.signature import GraphSpec


class TorchScriptBackend(GraphBackend):
    """Runs TorchScript files on the CPU. Safe to call from several threads.

    Args:
        graphs: file of each graph by its name; ``prefill`` and ``decode`` are needed, ``interests_J`` as wanted.
        spec: sizes of the exported model.

    Raises:
        BundleError: a graph is missing or damaged.
    """

    def __init__(self, graphs: Mapping[str, Path], spec: ModelSpec) -> None:
        super().__init__(spec, fused_numbers(graphs))
        self._modules = {name: load_torchscript(path) for name, path in graphs.items()}

    def close(self) -> None:
        """Lets go of the modules when the backend goes; nothing else is held."""

    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        return run_graph(self._modules[graph.name], graph, feeds, torch.device("cpu"))
