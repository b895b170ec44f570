"""What a model is asked, as the run of one graph: checks and names before, names after. Runs nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from recgpt.backends.asks import Decode, Interest, Interests, ModelAsk, Prefill
from recgpt.backends.base import ModelSpec, check_tokens
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


@dataclass(frozen=True, eq=False)
class GraphRun:
    """One run of a graph.

    Attributes:
        graph: with the outputs that are wanted and no others.
        feeds: its inputs by name.
    """

    graph: GraphSpec
    feeds: NamedArrays


def graph_run(ask: ModelAsk, spec: ModelSpec, fused: Collection[int]) -> GraphRun:
    """The run that answers a question.

    Raises:
        RequestError: tokens or cache do not fit the model, or there is no such graph.
    """
    match ask:
        case Prefill():
            check_tokens(ask.tokens, spec, num_steps=1)
            return GraphRun(PREFILL, prefill_feeds(ask.tokens))
        case Interest(tokens, None):
            check_tokens(tokens, spec, num_steps=1)
            return GraphRun(PREFILL.only(INTEREST), prefill_feeds(tokens))
        case Decode(tokens, past) | Interest(tokens, past) if past is not None:
            check_decode(tokens, past, spec)
            graph = DECODE if isinstance(ask, Decode) else DECODE.only(INTEREST)
            return GraphRun(graph, decode_feeds(tokens, past))
        case Interests():
            check_fused(ask.num_interests, fused)
            check_tokens(ask.tokens, spec, num_steps=ask.num_interests)
            return GraphRun(interests_spec(ask.num_interests), prefill_feeds(ask.tokens))
        case _:
            raise TypeError(f"a model does not answer {type(ask).__name__}")


def graph_answer(ask: ModelAsk, outputs: NamedArrays) -> Any:
    """The answer in a run's outputs."""
    match ask:
        case Prefill() | Decode():
            return step_output(outputs)
        case Interest():
            return outputs[INTEREST]
        case Interests():
            return interests_output(outputs)
