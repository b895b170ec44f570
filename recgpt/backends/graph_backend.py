"""What every backend shares around the run of a graph: checks before, names in, names out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from recgpt.backends.asks import Decode, Interest, Interests, ModelAsk, Prefill
from recgpt.backends.base import InterestsOutput, ModelSpec, RecallOutput, StepOutput, Tokens, check_tokens
from recgpt.backends.graph_calls import graph_answer, graph_run
from recgpt.backends.tensors import NamedArrays, check_recall, recall_feeds, recall_output
from recgpt.signature import IS_WHOLE, GraphSpec, recall_scan_spec, recall_spec
from recgpt.types import Float32Array, Int64Array

MIN_SCANNED = 8
"""From so many requests on a graph that scans is the faster one: it computes less, by twice as many operators."""


class GraphBackend(ABC):
    """The contract of ``recgpt.backends.base.Backend``, down to running one graph on named arrays.

    Args:
        spec: sizes of the model.
        fused: the J for which there is a graph ``interests_J``.
        recalls: the J for which there is a graph ``recall_J``, and the most items that it gives.
        scans: the J for which there is a graph ``recall_scan_J`` beside it, and the most items that it gives. It is
            taken where it is faster.
    """

    def __init__(
        self,
        spec: ModelSpec,
        fused: Iterable[int],
        recalls: Mapping[int, int] | None = None,
        scans: Mapping[int, int] | None = None,
    ) -> None:
        self._spec = spec
        self._fused = frozenset(fused)
        self._recalls = dict(recalls or {})
        self._scans = dict(scans or {})

    @property
    def spec(self) -> ModelSpec:
        """Sizes of the model."""
        return self._spec

    @property
    def fused(self) -> frozenset[int]:
        """The numbers of interests for which ``interests`` is available."""
        return self._fused

    @property
    def recalls(self) -> Mapping[int, int]:
        """The numbers of interests for which ``recall`` is available, and how many items it gives at most."""
        return self._recalls

    @property
    def scans(self) -> Mapping[int, int]:
        """The numbers of interests for which there is a graph that scans as well, and how many items it gives."""
        return self._scans

    def prefill(self, tokens: Tokens) -> StepOutput:
        """See ``Backend.prefill``; RequestError if the tokens do not fit."""
        output: StepOutput = self._answer(Prefill(tokens))
        return output

    def decode(self, tokens: Tokens, past: Float32Array) -> StepOutput:
        """See ``Backend.decode``; RequestError if tokens or cache do not fit."""
        output: StepOutput = self._answer(Decode(tokens, past))
        return output

    def interest(self, tokens: Tokens, past: Float32Array | None = None) -> Float32Array:
        """See ``Backend.interest``; RequestError if tokens or cache do not fit."""
        interest: Float32Array = self._answer(Interest(tokens, past))
        return interest

    def interests(self, tokens: Tokens, num_interests: int) -> InterestsOutput:
        """See ``Backend.interests``; RequestError if the tokens do not fit or there is no such graph."""
        output: InterestsOutput = self._answer(Interests(tokens, num_interests))
        return output

    def run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        """Runs one graph as it stands, past every check: for what stands in for a server."""
        return self._run(graph, feeds)

    def recall(self, tokens: Tokens, quotas: Int64Array) -> RecallOutput:
        """See ``RecallBackend.recall``; RequestError if tokens or quotas do not fit or there is no such graph."""
        num_interests = check_recall(tokens, quotas, self._recalls)
        check_tokens(tokens, self._spec, num_steps=num_interests)
        return self._recall(tokens, quotas)

    @abstractmethod
    def close(self) -> None:
        """Lets go of what the backend holds; calling it twice is harmless."""

    @abstractmethod
    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        """Runs one graph: its inputs by name, by name the outputs that ``graph`` names and no others."""

    def _recall(self, tokens: Tokens, quotas: Int64Array) -> RecallOutput:
        """``recall`` of what was checked."""
        feeds, num_interests = recall_feeds(tokens, quotas), quotas.shape[1]
        most = self._scans.get(num_interests, 0)
        if len(tokens) >= MIN_SCANNED and quotas.sum(axis=1).max() <= most:
            found = self._run(recall_scan_spec(num_interests), feeds)
            if found[IS_WHOLE].all():
                return recall_output(found)
        return recall_output(self._run(recall_spec(num_interests), feeds))

    def _answer(self, ask: ModelAsk) -> Any:
        run = graph_run(ask, self._spec, self._fused)
        return graph_answer(ask, self._run(run.graph, run.feeds))
