"""One layout under LoadGen: a row for each run, the search for its highest rate among them."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from recgpt.asking import drive_async
from recgpt.bench.load import Lists
from recgpt.bench.load_rows import ALONE, HELD, LIMIT_MS, OFFLINE, SERVER, Used, group_cpu_s, load_row, meets
from recgpt.bench.open_loop import AsyncRecall, Run, offline, serve
from recgpt.bench.rate_search import Bracket, search_rate
from recgpt.bench.results import Fact, Row
from recgpt.bench.server_statistics import ServerAccount
from recgpt.types import Candidates, RecallRequest

# A run that misses the bound by less than this factor is run again, with other arrivals: one hiccup of the machine
# spoils a run of seconds.
_NEARLY = 4.0

# Runs that hold a bar's rate; their median counts.
_NUM_HELD = 3

OFFLINE_BATCH, _UNDER_WAY = 256, 2


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured of each layout.

    Attributes:
        run_s: of each run of the Server scenario.
        held_s: of each run that holds a bar's rate.
        offline_s: about, of the one run of the Offline scenario.
        ladder: rates that are tested in any case, up to the first that misses the bound.
        lowest: least rate to be tested.
        precision: of the highest rate, as a factor.
    """

    run_s: float
    held_s: float
    offline_s: float
    ladder: tuple[float, ...]
    lowest: float
    precision: float


@dataclass(kw_only=True)
class LayoutLoad:
    """A layout on a running server.

    Attributes:
        name: for rows.
        recall: the layout.
        requests: places to draw from.
        account: of the model on the server.
        server_pid: of the server's process group.
        facts: of all rows.
        expected: see ``load_row``.
        alone: see ``load_row``.
        rows: of all runs so far.
    """

    name: str
    recall: AsyncRecall
    requests: Sequence[RecallRequest]
    account: ServerAccount
    server_pid: int
    facts: Mapping[str, Fact]
    expected: Lists | None
    alone: Lists | None
    rows: list[Row] = field(default_factory=list)

    async def measure(self, effort: Effort) -> Bracket:
        """The Offline scenario, then the search for the highest rate; all runs are in ``rows``."""
        await self.offline(effort.offline_s)

        async def is_met(rate: float) -> bool:
            row = await self.serve(rate, effort.run_s, attempt=1)
            if not meets(row) and meets(row, limit_ms=_NEARLY * LIMIT_MS):
                row = await self.serve(rate, effort.run_s, attempt=2)
            return meets(row)

        return await drive_async(search_rate(effort.ladder, precision=effort.precision, lowest=effort.lowest), is_met)

    async def hold(self, rate: float, effort: Effort) -> None:
        """The Server scenario at a bar's rate for longer, several times, each with other arrivals."""
        for attempt in range(1, _NUM_HELD + 1):
            await self.serve(rate, effort.held_s, attempt=attempt, mode=HELD)

    async def serve(self, rate: float, duration_s: float, *, attempt: int, mode: str = SERVER) -> Row:
        """One run of the Server scenario."""
        return await self._run(
            {"mode": mode, "rate": rate, "attempt": attempt},
            lambda: serve(self.recall, self.requests, rate=rate, duration_s=duration_s, seed=attempt),
        )

    async def offline(self, duration_s: float) -> Row:
        """One run of the Offline scenario."""
        batch = [self.requests[place % len(self.requests)] for place in range(OFFLINE_BATCH)]
        started = time.perf_counter()
        await self.recall(batch)
        expected_rate = OFFLINE_BATCH / (time.perf_counter() - started)
        num_batches = max(2 * _UNDER_WAY, round(expected_rate * duration_s / OFFLINE_BATCH))
        return await self._run(
            {"mode": OFFLINE, "rate": None, "attempt": 1},
            lambda: offline(
                self.recall,
                self.requests,
                num_samples=num_batches * OFFLINE_BATCH,
                batch=OFFLINE_BATCH,
                num_under_way=_UNDER_WAY,
                seed=1,
            ),
        )

    async def _run(self, setting: Mapping[str, Fact], run: Callable[[], Awaitable[Run]]) -> Row:
        before = await asyncio.to_thread(self.account.read)
        # The generator shares its process with all that was measured before; the collector need not walk that again.
        gc.collect()
        gc.freeze()
        server_s, client_s = group_cpu_s(self.server_pid), time.process_time()
        done = await run()
        used = Used(client_s=time.process_time() - client_s, server_s=group_cpu_s(self.server_pid) - server_s)
        num_answered = sum(asked.error is None for asked in done.asked)
        counted = await asyncio.to_thread(self.account.since, before, num_inferences=num_answered)
        facts = {**self.facts, **setting}
        row = load_row(self.name, facts, done, server=counted, used=used, expected=self.expected, alone=self.alone)
        self.rows.append(row)
        return row


async def generator_alone(requests: Sequence[RecallRequest], rates: Sequence[float], duration_s: float) -> list[Row]:
    """LoadGen with a client that answers at once: what every latency holds of the generator itself."""

    async def nothing(given: Sequence[RecallRequest]) -> list[Candidates]:
        return []

    rows = []
    for rate in rates:
        started = time.process_time()
        run = await serve(nothing, requests, rate=rate, duration_s=duration_s, seed=1)
        used = Used(client_s=time.process_time() - started, server_s=0.0)
        facts: dict[str, Fact] = {"mode": ALONE, "num_items": None, "rate": rate, "attempt": 1}
        rows.append(load_row(ALONE, facts, run, server=None, used=used, expected=None, alone=None))
    return rows
