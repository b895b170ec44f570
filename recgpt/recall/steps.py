"""The autoregressive loop over a backend: the fused graph where there is one, else step by step on the KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recgpt.backends.base import Backend, InterestsOutput, Tokens
from recgpt.types import PROMPT, Int64Array


def generate_interests(backend: Backend, tokens: Tokens, num_interests: int) -> InterestsOutput:
    """J interests a row by the fewest calls the backend offers; the same answer either way."""
    if num_interests in backend.fused:
        return backend.interests(tokens, num_interests)
    return generate_stepwise(backend, tokens, num_interests)


def generate_stepwise(backend: Backend, tokens: Tokens, num_interests: int) -> InterestsOutput:
    """J interests a row by J calls: ``prefill``, then ``decode``, and at last the ``interest`` alone.

    Each step's best item, neither excluded nor generated before, is fed back with segment 1 at the next position.

    Args:
        backend: runs the graphs.
        tokens: histories of at most C - (J - 1) tokens.
        num_interests: J, at least 1.

    Returns:
        As ``Backend.interests``.
    """
    new, past = tokens, None
    interests, generated = [], []
    for _ in range(1, num_interests):
        output = backend.prefill(new) if past is None else backend.decode(new, past)
        interests.append(output.interest)
        generated.append(output.next_rows)
        new, past = feed_back(tokens, generated), output.key_values
    interests.append(backend.interest(new, past))
    generated_rows = np.stack(generated, axis=1) if generated else np.zeros((len(tokens), 0), dtype=np.int64)
    return InterestsOutput(interests=np.stack(interests, axis=1), generated_rows=generated_rows)


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
