"""MLPerf's load generator: requests by the clock, whether or not earlier ones were answered. The home of its library.

LoadGen draws the arrivals and keeps the times; latency counts from the moment that a request was due, so a generator
that is late, or a client that cannot keep up, makes the numbers worse, never better. Knows nothing of recall.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recgpt.extras import require

_TRACE = "mlperf_log_trace.json"
_FIELDS = ("sample_seq", "query_seq", "sample_idx", "issue_start_ns", "complete_ns")
_SAMPLE = re.compile(",".join(rf'"{field}":(\d+)' for field in _FIELDS))

Due = tuple[int, int]
"""What LoadGen calls a sample, by which it is told of the answer, and the place of the request."""

Issue = Callable[[Sequence[Due]], None]
"""Told what is due, in LoadGen's thread; must not block."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One request as LoadGen saw it.

    Attributes:
        number: in the order in which the requests were due, from 0.
        place: of the request.
        late_ns: from when it was due until it was issued.
        latency_ns: from when it was due until it was answered.
    """

    number: int
    place: int
    late_ns: int
    latency_ns: int


def complete(samples: Sequence[int]) -> None:
    """Tells LoadGen that samples were answered; from any thread."""
    loadgen = require("mlperf_loadgen")
    loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(sample, 0, 0) for sample in samples])


def run_server(
    issue: Issue, *, num_requests: int, rate: float, duration_s: float, seed: int, max_waiting: int
) -> list[Answered]:
    """The Server scenario: single requests, Poisson arrivals. Returns when all are answered.

    Args:
        issue: told of each.
        num_requests: places to draw from, with replacement.
        rate: requests a second, on average.
        duration_s: for which requests arrive.
        seed: of arrivals and of places.
        max_waiting: more requests than this that wait for their answers end the run early.

    Returns:
        All requests, in the order in which they were due; DependencyError if LoadGen is not installed.
    """
    loadgen = require("mlperf_loadgen")
    settings = _settings(loadgen, loadgen.TestScenario.Server, seed)
    settings.server_target_qps = rate
    settings.min_duration_ms = int(duration_s * 1000)
    settings.min_query_count = 1
    settings.server_max_async_queries = max_waiting
    return _run(loadgen, issue, num_requests, settings)


def run_offline(issue: Issue, *, num_requests: int, num_samples: int, seed: int) -> list[Answered]:
    """The Offline scenario: all samples are due at once. Arguments as of ``run_server``."""
    loadgen = require("mlperf_loadgen")
    settings = _settings(loadgen, loadgen.TestScenario.Offline, seed)
    # LoadGen issues as many as would fill the least duration at the expected rate, or the least number if that is more.
    settings.offline_expected_qps = 1
    settings.min_duration_ms = 1
    settings.min_query_count = num_samples
    return _run(loadgen, issue, num_requests, settings)


def read_trace(text: str) -> list[Answered]:
    """The samples in LoadGen's trace, in the order in which they were due."""
    found = [
        Answered(number=number, place=place, late_ns=late_ns, latency_ns=latency_ns)
        for number, _, place, late_ns, latency_ns in (map(int, match.groups()) for match in _SAMPLE.finditer(text))
    ]
    return sorted(found, key=lambda answered: answered.number)


def _settings(loadgen: Any, scenario: Any, seed: int) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = scenario
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.qsl_rng_seed = settings.sample_index_rng_seed = settings.schedule_rng_seed = seed
    return settings


def _run(loadgen: Any, issue: Issue, num_requests: int, settings: Any) -> list[Answered]:
    def issued(samples: Sequence[Any]) -> None:
        issue([(sample.id, sample.index) for sample in samples])

    with tempfile.TemporaryDirectory() as folder:
        log = loadgen.LogSettings()
        log.log_output.outdir = folder
        log.enable_trace = True
        system = loadgen.ConstructSUT(issued, lambda: None)
        library = loadgen.ConstructQSL(num_requests, num_requests, lambda places: None, lambda places: None)
        try:
            # The last name is of a file that would change the settings; there is none in the folder.
            loadgen.StartTestWithLogSettings(system, library, settings, log, str(Path(folder, "audit.config")))
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(system)
        return read_trace(Path(folder, _TRACE).read_text())
