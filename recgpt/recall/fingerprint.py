"""A model's answer to one fixed request, by which a server's model is recognised."""

from __future__ import annotations

import numpy as np

from recgpt.asking import Steps, drive
from recgpt.backends.asks import Interest, ask_backend
from recgpt.backends.base import Backend, Model
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import batch_tokens, encode_request
from recgpt.types import Float32Array, RecallRequest

# A served model may run at lower precision or on other hardware than the export; another model is far further away.
TOLERANCE = 0.05


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
