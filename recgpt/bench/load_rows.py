"""Rows of the load benchmark: what two accounts of each request and the server's own say together; and the bars."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import numpy as np

from recgpt.backends.triton_rpc import ModelStatistics
from recgpt.bench.layouts import EMPTY_PYTHON, ENGINE
from recgpt.bench.load import NS_PER_S, Lists
from recgpt.bench.open_loop import Asked, Run
from recgpt.bench.results import Fact, Row
from recgpt.bench.timing import NS_PER_MS, percentiles_ms

SERVER, HELD, OFFLINE, ONE, ALONE = "server", "held", "offline", "one request", "generator alone"
"""Modes of rows: LoadGen's two scenarios, a bar's rate held for longer between them, single calls in turn, and LoadGen
with nobody behind it.
"""

LIMIT_MS = 50.0
STAGES = ("generator", "client", "search", "network", "queue", "compute")

# Latencies of a run that go into the JSON; hundreds of thousands would make megabytes.
NUM_KEPT = 1000


@dataclass(frozen=True, kw_only=True)
class Used:
    """Seconds of processor time that a run took."""

    client_s: float
    server_s: float


def kept(samples_ns: Sequence[int], number: int = NUM_KEPT) -> tuple[int, ...]:
    """At most ``number`` of the samples, ascending, evenly spaced by rank, the least and the greatest among them."""
    ordered = sorted(samples_ns)
    if len(ordered) <= number:
        return tuple(ordered)
    ranks = np.rint(np.linspace(0, len(ordered) - 1, number)).astype(int)
    return tuple(ordered[rank] for rank in ranks)


def load_row(
    name: str,
    facts: Mapping[str, Fact],
    run: Run,
    *,
    server: ModelStatistics | None,
    used: Used,
    expected: Lists | None,
    alone: Lists | None,
) -> Row:
    """One run of the Server or the Offline scenario.

    Args:
        name: of the layout.
        facts: the setting.
        run: all its requests.
        server: what the model on the server counted for it; None if there was none.
        used: what it took.
        expected: the lists of the engine in process; None if nothing is recalled.
        alone: the lists of this layout, asked for one request at a time.
    """
    latencies = [answered.latency_ns for answered in run.answered]
    number = len(latencies)
    is_server = facts["mode"] != OFFLINE
    found: dict[str, Fact] = {
        **facts,
        "num_requests": number,
        "num_failed": sum(asked.error is not None for asked in run.asked),
        "throughput": None if is_server else number / (max(latencies) / NS_PER_S),
        "identical_lists": _share_equal(run.asked, expected),
        "own_lists": _share_equal(run.asked, alone),
        **{f"{percentile}_ms": value for percentile, value in percentiles_ms(latencies).items()},
        **{f"{stage}_ms": mean for stage, mean in (stage_means(run, server) if is_server else {}).items()},
        "rows_a_run": None if server is None else server.num_inferences / max(server.num_executions, 1),
        "client_cpu_ms": used.client_s * 1e3 / number,
        "server_cpu_ms": used.server_s * 1e3 / number,
    }
    return Row(name=name, facts=found, samples_ns=kept(latencies))


def stage_means(run: Run, server: ModelStatistics | None) -> dict[str, float]:
    """Mean milliseconds of a request by stage, of a run of single requests.

    They sum to its mean latency but for the microseconds that LoadGen takes to note an answer.

    ``generator``: until the client began with it, since the clock was late or the event loop busy with others;
    ``client``: ids to rows and rows to ids; ``search``: of the index in the client; ``queue`` and ``compute`` by the
    server's account; ``network``: the rest of the round trip, gRPC on both sides and its wait for the event loop.
    """
    late = fmean(answered.late_ns for answered in run.answered) + fmean(asked.wait_ns for asked in run.asked)
    recall = fmean(asked.recall_ns for asked in run.asked)
    if server is None:
        return {"generator": late / NS_PER_MS, "client": recall / NS_PER_MS}
    timings = [asked.answer.timings for asked in run.asked if asked.answer is not None]
    search = fmean(timing.search_ns for timing in timings) if timings else 0.0
    # Where nothing is recalled, the call is the round trip.
    round_trip = fmean(timing.interests_ns for timing in timings) if timings else recall
    queue = server.queue_ns / server.num_inferences
    compute = (server.compute_input_ns + server.compute_infer_ns) / server.num_inferences
    means = (late, recall - round_trip - search, search, round_trip - queue - compute, queue, compute)
    return {stage: mean / NS_PER_MS for stage, mean in zip(STAGES, means, strict=True)}


def meets(row: Row, *, limit_ms: float = LIMIT_MS) -> bool:
    """Whether p99 of all requests of a run is within the limit, and none failed."""
    return row.facts["num_failed"] == 0 and float(row.facts["p99_ms"] or 0) <= limit_ms


def group_cpu_s(pid: int) -> float:
    """Seconds of processor time of all processes of the process group ``pid`` so far; 0 where /proc is missing."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        # Fields 5, 14 and 15 of proc(5), counted from 1; the first two are cut off.
        if int(fields[2]) == pid:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What is to be reached.

    Attributes:
        text: for people.
        num_items: of the catalogue.
        rate: requests a second; None for a bar on one request at a time.
        percentile: of the latency.
        limit_ms: that it may be.
        layout: the only one that counts; None for the best.
    """

    text: str
    num_items: int
    rate: float | None
    percentile: str
    limit_ms: float
    layout: str | None = None

    def is_for(self, layout: str) -> bool:
        """Whether a layout counts; those that recall nothing never do."""
        return layout != EMPTY_PYTHON and self.layout in (None, layout)


BARS = (
    Bar(text="1,000 requests/s", num_items=10_000, rate=1000, percentile="p99", limit_ms=LIMIT_MS),
    Bar(text="500 requests/s", num_items=100_000, rate=500, percentile="p99", limit_ms=LIMIT_MS),
    Bar(
        text="200 requests/s, index in the loop",
        num_items=1_000_000,
        rate=200,
        percentile="p90",
        limit_ms=LIMIT_MS,
        layout=ENGINE,
    ),
    Bar(
        text="one request over the engine in process",
        num_items=10_000,
        rate=None,
        percentile="p50",
        limit_ms=0.8,
        layout=ENGINE,
    ),
)


def judge(rows: Sequence[Row], bars: Sequence[Bar] = BARS) -> list[dict[str, Fact]]:
    """Each bar that was measured, with what the best layout reached, the median of its runs, and which layout that is.

    Runs that held the bar's rate count alone where there are any; a layout that failed a request does not count. Where
    all layouts missed lower rates already, none was asked for the bar's: then nothing was reached, by no layout.
    ``hop_ms`` is what one call of an empty model takes, p50; None where the bar is on a rate.
    """
    found: list[dict[str, Fact]] = []
    hops = {row.facts["num_items"]: row.latency_ms["p50"] for row in rows if _is_empty_call(row)}
    for bar in bars:
        about = [row for row in rows if _is_about(row, bar)]
        about = [row for row in about if row.facts["mode"] == HELD] or about
        reached = {
            name: median(_reached_ms(row, bar) for row in about if row.name == name)
            for name in dict.fromkeys(row.name for row in about)
            if not any(row.facts.get("num_failed") for row in about if row.name == name)
        }
        if not reached and not any(_is_on_the_way(row, bar) for row in rows):
            continue
        layout = min(reached, key=lambda name: reached[name]) if reached else None
        found.append(
            {
                "bar": bar.text,
                "num_items": bar.num_items,
                "limit": f"{bar.percentile} <= {bar.limit_ms:g} ms",
                "layout": layout,
                "reached_ms": reached[layout] if layout is not None else None,
                "is_met": int(layout is not None and reached[layout] <= bar.limit_ms),
                "hop_ms": hops.get(bar.num_items) if bar.rate is None else None,
            }
        )
    return found


def _is_empty_call(row: Row) -> bool:
    return row.name == EMPTY_PYTHON and row.facts["mode"] == ONE


def _is_on_the_way(row: Row, bar: Bar) -> bool:
    """Whether it is a run of the search for the highest rate over the bar's catalogue."""
    is_setting = bar.rate is not None and row.facts["mode"] == SERVER
    return is_setting and row.facts["num_items"] == bar.num_items and bar.is_for(row.name)


def _is_about(row: Row, bar: Bar) -> bool:
    modes = (ONE,) if bar.rate is None else (SERVER, HELD)
    is_setting = row.facts["mode"] in modes and row.facts.get("rate") == bar.rate
    return is_setting and row.facts["num_items"] == bar.num_items and bar.is_for(row.name)


def _reached_ms(row: Row, bar: Bar) -> float:
    return float(row.facts["overhead_ms" if bar.rate is None else f"{bar.percentile}_ms"] or 0)


def _share_equal(asked: Sequence[Asked], expected: Lists | None) -> float | None:
    if expected is None:
        return None
    return fmean(one.answer is not None and one.answer.item_ids == expected[one.place] for one in asked)
