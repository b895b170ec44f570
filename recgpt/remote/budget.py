"""How many retries there may be: a share of the calls. No I/O."""

from __future__ import annotations

import threading

_BURST = 10.0


class RetryBudget:
    """A token bucket: each call puts ``ratio`` of a token in, each retry or hedge takes one out. Thread-safe.

    So n calls lead to at most ``n * (1 + ratio) + 10`` attempts, however many fail.

    Args:
        ratio: retries a call in the long run.
    """

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._tokens = _BURST if ratio > 0 else 0.0
        self._lock = threading.Lock()

    def put(self) -> None:
        """For a call."""
        with self._lock:
            self._tokens = min(_BURST, self._tokens + self._ratio)

    def take(self) -> bool:
        """For a retry or a hedge; False if there must be none."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
