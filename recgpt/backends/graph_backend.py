"""What every backend shares around the run of a graph: checks before, names in, names out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from recgpt.backends.base import InterestsOutput, ModelSpec, StepOutput, Tokens, check_tokens
from recgpt.backends.tensors import (
    NamedArrays,
    check_decode,
    check_fused,
    decode_feeds,
    interests_output,
    prefill_feeds,
    step_output,
)
from recgpt.signature import DECODE, INTEREST, PREFILL, GraphSpec, interests_spec
from recgpt.types import Float32Array


class GraphBackend(ABC):
    """The contract of ``recgpt.backends.base.Backend``, down to running one graph on named arrays.

    Args:
        spec: sizes of the model.
        fused: the J for which there is a graph ``interests_J``.
    """

    def __init__(self, spec: ModelSpec, fused: Iterable[int]) -> None:
        self._spec = spec
        self._fused = frozenset(fused)

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
        return step_output(self._run(PREFILL, prefill_feeds(tokens)))

    def decode(self, tokens: Tokens, past: Float32Array) -> StepOutput:
        """See ``Backend.decode``; RequestError if tokens or cache do not fit."""
        check_decode(tokens, past, self._spec)
        return step_output(self._run(DECODE, decode_feeds(tokens, past)))

    def interest(self, tokens: Tokens, past: Float32Array | None = None) -> Float32Array:
        """See ``Backend.interest``; RequestError if tokens or cache do not fit."""
        if past is None:
            check_tokens(tokens, self._spec, num_steps=1)
            graph, feeds = PREFILL, prefill_feeds(tokens)
        else:
            check_decode(tokens, past, self._spec)
            graph, feeds = DECODE, decode_feeds(tokens, past)
        interest: Float32Array = self._run(graph.only(INTEREST), feeds)[INTEREST]
        return interest

    def interests(self, tokens: Tokens, num_interests: int) -> InterestsOutput:
        """See ``Backend.interests``; RequestError if the tokens do not fit or there is no such graph."""
        check_fused(num_interests, self._fused)
        check_tokens(tokens, self._spec, num_steps=num_interests)
        return interests_output(self._run(interests_spec(num_interests), prefill_feeds(tokens)))

    @abstractmethod
    def close(self) -> None:
        """Lets go of what the backend holds; calling it twice is harmless."""

    @abstractmethod
    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        """Runs one graph: its inputs by name, by name the outputs that ``graph`` names and no others."""
