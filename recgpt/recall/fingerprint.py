"""A model's answer to one fixed request, by which a server's model is recognised."""

from __future__ import annotations

import numpy as np

from recgpt.backends.base import Backend
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import batch_tokens, encode_request
from recgpt.types import Float32Array, RecallRequest

# A served model may run at lower precision or on other hardware than the export; another model is far further away.
TOLERANCE = 0.05


def fingerprint(backend: Backend, catalogue: Catalogue, request: RecallRequest) -> Float32Array:
    """The first interest (D,) float32 for one request whose history holds at least one known item."""
    encoded = encode_request(request, catalogue, prompt_tuned=False)
    tokens = batch_tokens([encoded], max_history=backend.spec.max_length)
    interest: Float32Array = backend.interest(tokens)[0]
    return interest


def fingerprint_distance(found: Float32Array, expected: Float32Array) -> float:
    """Largest difference, relative to the largest expected value; infinite if the widths differ."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())
