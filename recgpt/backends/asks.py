"""What recall asks for: runs of the model, searches, and what is left of the time. Knows nothing of who answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recgpt.asking import Ask
from recgpt.backends.base import Backend, InterestsOutput, RecallOutput, StepOutput, Tokens
from recgpt.types import Float32Array, Int64Array


@dataclass(frozen=True, eq=False)
class Prefill(Ask[StepOutput]):
    """See ``Backend.prefill``."""

    tokens: Tokens


@dataclass(frozen=True, eq=False)
class Decode(Ask[StepOutput]):
    """See ``Backend.decode``."""

    tokens: Tokens
    past: Float32Array


@dataclass(frozen=True, eq=False)
class Interest(Ask[Float32Array]):
    """See ``Backend.interest``."""

    tokens: Tokens
    past: Float32Array | None = None


@dataclass(frozen=True, eq=False)
class Interests(Ask[InterestsOutput]):
    """See ``Backend.interests``."""

    tokens: Tokens
    num_interests: int


ModelAsk = Prefill | Decode | Interest | Interests
"""What a model answers."""


@dataclass(frozen=True, eq=False)
class Search(Ask[tuple[Int64Array, Float32Array]]):
    """See ``ItemIndex.search``."""

    queries: Float32Array
    k: int
    among: Int64Array | None = None
    excluded: Int64Array | None = None


@dataclass(frozen=True, eq=False)
class Recall(Ask[RecallOutput]):
    """See ``RecallBackend.recall``."""

    tokens: Tokens
    quotas: Int64Array


class TakeReserve(Ask[None]):
    """The time that was kept back for a lower rung may be used from now on."""


def ask_backend(backend: Backend, ask: Ask[Any]) -> Any:
    """The answer of a backend in this process, or of one that blocks; TypeError for what is no ``ModelAsk``."""
    match ask:
        case Prefill():
            return backend.prefill(ask.tokens)
        case Decode():
            return backend.decode(ask.tokens, ask.past)
        case Interest():
            return backend.interest(ask.tokens, ask.past)
        case Interests():
            return backend.interests(ask.tokens, ask.num_interests)
        case _:
            raise TypeError(f"a model does not answer {type(ask).__name__}")
