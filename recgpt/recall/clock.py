"""Where the time of one call goes."""

from __future__ import annotations

import time

from recgpt.types import Timings


class Clock:
    """Adds up the time between laps under the name of the stage that just ended."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter_ns()
        self._stages = {"encode": 0, "interests": 0, "search": 0, "merge": 0}

    def lap(self, stage: str) -> None:
        """The stage that ends now: encode, interests, search or merge."""
        now = time.perf_counter_ns()
        self._stages[stage] += now - self._last
        self._last = now

    def timings(self) -> Timings:
        """The sums until the last lap."""
        return Timings(
            **{f"{stage}_ns": duration for stage, duration in self._stages.items()}, total_ns=self._last - self._start
        )
