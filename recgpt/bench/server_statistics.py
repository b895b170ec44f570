"""What a Triton server says it did for some calls: the difference of its counters before and after."""

from __future__ import annotations

import time
from dataclasses import fields

from recgpt.backends.triton import TritonBackend
from recgpt.backends.triton_rpc import ModelStatistics
from recgpt.errors import ServerTimeoutError

# Triton closes its books right after it has answered, so they may lag behind an answer by some microseconds.
DEADLINE_S = 5.0


class ServerAccount:
    """Reads one model's counters; a server that others use at the same time gives their work too.

    Args:
        backend: connected to the server.
        model: name of the model.
    """

    def __init__(self, backend: TritonBackend, model: str) -> None:
        self._backend = backend
        self._model = model

    def read(self) -> ModelStatistics:
        """The counters as they stand."""
        return self._backend.statistics()[self._model]

    def since(self, before: ModelStatistics, *, num_inferences: int) -> ModelStatistics:
        """What was added to ``before``, as soon as it is ``num_inferences`` rows or more.

        Raises:
            ServerTimeoutError: so many were not counted in time.
        """
        deadline = time.monotonic() + DEADLINE_S
        while (added := _difference(self.read(), before)).num_inferences < num_inferences:
            if time.monotonic() > deadline:
                raise ServerTimeoutError(
                    f"Triton counted {added.num_inferences} rows of {self._model}, even {DEADLINE_S:g} s after it had "
                    f"answered {num_inferences}; was the server restarted? Measure again"
                )
        return added


def _difference(after: ModelStatistics, before: ModelStatistics) -> ModelStatistics:
    return ModelStatistics(**{f.name: getattr(after, f.name) - getattr(before, f.name) for f in fields(after)})
