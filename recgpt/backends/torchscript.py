"""The traced graphs, run by PyTorch: what libtorch would answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from recgpt.backends.base import InterestsOutput, ModelSpec, StepOutput, Tokens, check_tokens
from recgpt.backends.tensors import (
    check_decode,
    check_fused,
    decode_feeds,
    fused_numbers,
    interests_output,
    prefill_feeds,
    step_output,
)
from recgpt.backends.torch_graphs import run_graph
from recgpt.graphs.torchscript_writer import load_torchscript
from recgpt.signature import DECODE, PREFILL, interests_spec
from recgpt.types import Float32Array


class TorchScriptBackend:
    """Runs TorchScript files on the CPU. Safe to call from several threads.

    Args:
        graphs: file of each graph by its name; ``prefill`` and ``decode`` are needed, ``interests_J`` as wanted.
        spec: sizes of the exported model.

    Raises:
        BundleError: a graph is missing or damaged.
    """

    def __init__(self, graphs: Mapping[str, Path], spec: ModelSpec) -> None:
        self._spec = spec
        self._fused = fused_numbers(graphs)
        self._modules = {name: load_torchscript(path) for name, path in graphs.items()}
        self._device = torch.device("cpu")

    @property
    def spec(self) -> ModelSpec:
        """Sizes of the model."""
        return self._spec

    @property
    def fused(self) -> frozenset[int]:
        """The numbers of interests for which ``interests`` is available."""
        return self._fused

    def prefill(self, tokens: Tokens) -> StepOutput:
        """See ``Backend.prefill``; RequestError if the tokens do not fit."""
        check_tokens(tokens, self._spec, num_steps=1)
        return step_output(run_graph(self._modules[PREFILL.name], PREFILL, prefill_feeds(tokens), self._device))

    def decode(self, tokens: Tokens, past: Float32Array) -> StepOutput:
        """See ``Backend.decode``; RequestError if tokens or cache do not fit."""
        check_decode(tokens, past, self._spec)
        return step_output(run_graph(self._modules[DECODE.name], DECODE, decode_feeds(tokens, past), self._device))

    def interests(self, tokens: Tokens, num_interests: int) -> InterestsOutput:
        """See ``Backend.interests``; RequestError if the tokens do not fit or there is no such graph."""
        check_fused(num_interests, self._fused)
        check_tokens(tokens, self._spec, num_steps=num_interests)
        graph = interests_spec(num_interests)
        return interests_output(run_graph(self._modules[graph.name], graph, prefill_feeds(tokens), self._device))

    def close(self) -> None:
        """Lets go of the modules when the backend goes; nothing else is held."""
