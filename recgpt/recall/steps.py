"""The autoregressive loop over a backend: the fused graph where there is one, else step by step on the KV cache."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from recgpt.asking import Steps, drive
from recgpt.backends.asks import Decode, Interest, Interests, Prefill, ask_backend
from recgpt.backends.base import Backend, InterestsOutput, Tokens
from recgpt.types import PROMPT, Float32Array, Int64Array


class Generated:
    """What was generated so far for a batch of histories.

    Attributes:
        tokens: the histories, of at most C - (J - 1) tokens.
        interests: (B, D) float32 of each step so far.
        rows: (B,) int64, the item that was fed back after each step but the last.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.interests: list[Float32Array] = []
        self.rows: list[Int64Array] = []

    def output(self) -> InterestsOutput:
        """The steps so far, at least one, as if no more had been asked for."""
        between = self.rows[: len(self.interests) - 1]
        nothing = np.zeros((len(self.tokens), 0), dtype=np.int64)
        return InterestsOutput(
            interests=np.stack(self.interests, axis=1),
            generated_rows=np.stack(between, axis=1) if between else nothing,
        )


def interests_steps(fused: Collection[int], generated: Generated, num_interests: int) -> Steps[InterestsOutput]:
    """J interests a row by the fewest questions a model with these fused graphs allows; the same answer either way."""
    if num_interests in fused:
        return (yield from Interests(generated.tokens, num_interests))
    return (yield from stepwise_steps(generated, num_interests))


def stepwise_steps(generated: Generated, num_interests: int) -> Steps[InterestsOutput]:
    """J interests a row by J questions: ``Prefill``, then ``Decode``, and at last the ``Interest`` alone.

    Each step's best item, neither excluded nor generated before, is fed back with segment 1 at the next position.
    ``generated`` holds the steps that were answered, also when one fails.
    """
    new, past = generated.tokens, None
    for _ in range(1, num_interests):
        output = yield from (Prefill(new) if past is None else Decode(new, past))
        generated.interests.append(output.interest)
        generated.rows.append(output.next_rows)
        new, past = feed_back(generated.tokens, generated.rows), output.key_values
    generated.interests.append((yield from Interest(new, past)))
    return generated.output()


def generate_stepwise(backend: Backend, tokens: Tokens, num_interests: int) -> InterestsOutput:
    """``stepwise_steps`` on a backend.

    Args:
        backend: runs the graphs.
        tokens: histories of at most C - (J - 1) tokens.
        num_interests: J, at least 1.

    Returns:
        As ``Backend.interests``.
    """
    return drive(stepwise_steps(Generated(tokens), num_interests), lambda ask: ask_backend(backend, ask))


def feed_back(tokens: Tokens, generated: Sequence[Int64Array]) -> Tokens:
    """The next token of each row: the item generated last, with segment 1, behind history and what was fed before it.

    Args:
        tokens: the histories.
        generated: (B,) int64 rows of each step so far, at least one; they are not generated again.
    """
    item_rows = generated[-1][:, None]
    return Tokens(
        user_rows=tokens.user_rows,
        item_rows=item_rows,
        segments=np.full_like(item_rows, PROMPT),
        lengths=tokens.lengths + (len(generated) - 1),
        excluded=np.concatenate([tokens.excluded, np.stack(generated, axis=1)], axis=1),
    )
