"""A model's answer to one fixed request, by which a server's model is recognised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from recgpt.asking import Steps, drive
from recgpt.backends.asks import Interest, ask_backend
from recgpt.backends.base import Backend, Model
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import batch_tokens, encode_request
from recgpt.types import Float32Array, ItemId, RecallRequest

# A served model may run at lower precision or on other hardware than the export; another model is far further away.
TOLERANCE = 0.05

# Of the best items that are written down, a server is asked for this many. So it may order close scores otherwise, and
# a good part of them may be deleted.
NUM_RECALLED = 40
NUM_ASKED = 10


def fingerprint(backend: Backend, catalogue: Catalogue, request: RecallRequest) -> Float32Array:
    """The first interest (D,) float32 for one request whose history holds at least one known item."""
    return drive(fingerprint_steps(backend, catalogue, request), lambda ask: ask_backend(backend, ask))


def fingerprint_steps(model: Model, catalogue: Catalogue, request: RecallRequest) -> Steps[Float32Array]:
    """The same, asked of whoever answers for the model."""
    encoded = encode_request(request, catalogue, prompt_tuned=False)
    interests = yield from Interest(batch_tokens([encoded], max_history=model.spec.max_length))
    first: Float32Array = interests[0]
    return first


def fingerprint_distance(found: Float32Array, expected: Float32Array) -> float:
    """Largest difference, relative to the largest expected value; infinite if the widths differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def recalled_history(history: Sequence[ItemId], *, max_length: int, recalls: Iterable[int]) -> Sequence[ItemId]:
    """The newest items of a test history, for which each graph that is asked has room.

    Args:
        history: of known items, oldest first.
        max_length: C, the model's window.
        recalls: the J of each graph that recalls; the smallest is asked.
    """
    return history[-(max_length - (min(recalls, default=1) - 1)) :]


def best_recalled(interest: Float32Array, item_matrix: Float32Array) -> dict[int, float]:
    """The best rows of (V + 1, D) for an interest (D,), row 0 being padding, with their scores, best first."""
    scores = item_matrix[1:] @ interest
    best = np.argsort(-scores, kind="stable")[:NUM_RECALLED]
    return {int(place) + 1: float(scores[place]) for place in best}


def recalled_distance(found: Mapping[ItemId, float], expected: Mapping[ItemId, float]) -> float:
    """Largest difference of the scores, relative to the largest expected one; infinite if the items are others."""
    shared = found.keys() & expected.keys()
    if not shared or 2 * len(shared) < len(found):
        return float("inf")
    return max(abs(found[item] - expected[item]) for item in shared) / max(map(abs, expected.values()))
