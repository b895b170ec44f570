"""Runs a PyTorch module that has the signature of a graph: named numpy arrays in, named numpy arrays out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recgpt.backends.tensors import NamedArrays
from recgpt.signature import GraphSpec, graph_spec

Runnable = Callable[..., tuple[Tensor, ...]]
"""An ``nn.Module`` or a TorchScript module; takes and gives tensors in the order of the signature."""


def run_graph(module: Runnable, spec: GraphSpec, feeds: NamedArrays, device: torch.device) -> dict[str, Any]:
    """Feeds a module by name and collects by name the outputs that ``spec`` asks for.

    Runs on ``device`` in inference mode; a module computes all outputs of its graph, whichever are asked for.
    """
    inputs = [torch.from_numpy(feeds[tensor.name]).to(device) for tensor in spec.inputs]
    with torch.inference_mode():
        outputs = module(*inputs)
    named = zip(graph_spec(spec.name).outputs, outputs, strict=True)
    return {tensor.name: output.cpu().numpy() for tensor, output in named if tensor in spec.outputs}
