"""Closed-loop load: N clients, each sending its next request when it has the answer to the last."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean

from recgpt.bench.results import Fact, Row
from recgpt.bench.server_statistics import ServerAccount
from recgpt.one_hop.answering import Recalls
from recgpt.types import ItemId, RecallRequest

# Threads start within milliseconds; this only keeps one that fails to from holding the others for ever.
START_S = 30.0
NS_PER_S = 1e9

Lists = Sequence[tuple[ItemId, ...]]
"""What is recalled for each request alone, by its place."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What N clients saw.

    Attributes:
        samples_ns: latency of every request, client after client.
        answers: of the same requests, the place of each and the items that came; none where nothing is recalled.
        duration_ns: from the common start to the last answer.
    """

    samples_ns: tuple[int, ...]
    answers: tuple[tuple[int, tuple[ItemId, ...]], ...]
    duration_ns: int

    def identical_lists(self, expected: Lists | None) -> float | None:
        """Share of answers that are the expected lists, order included; None where none are expected."""
        return None if expected is None else fmean(items == expected[place] for place, items in self.answers)


def lists_alone(recaller: Recalls, requests: Iterable[RecallRequest]) -> Lists:
    """Recalls each request by a call of its own."""
    return [recaller.recall_many([request])[0].item_ids for request in requests]


def run_load(
    recaller: Recalls,
    requests: Sequence[RecallRequest],
    *,
    num_clients: int,
    duration_s: float,
) -> Load:
    """Sends single requests from ``num_clients`` threads that share a recaller.

    Args:
        recaller: called from all threads.
        requests: each client walks through them, starting at a place of its own.
        num_clients: threads.
        duration_s: no request is sent after this time, but each client sends at least one; those under way are waited
            for and counted.

    Returns:
        All latencies and answers. An error of any request is raised.
    """
    started = 0

    def mark() -> None:
        # Read before any thread goes on; the main thread might be the last to.
        nonlocal started
        started = time.perf_counter_ns()

    start = threading.Barrier(num_clients + 1, action=mark, timeout=START_S)
    stop = threading.Event()

    def client(number: int) -> list[tuple[int, int, tuple[ItemId, ...]]]:
        seen = []
        place = number * len(requests) // num_clients
        start.wait()
        while True:
            sent = time.perf_counter_ns()
            found = recaller.recall_many([requests[place]])
            took = time.perf_counter_ns() - sent
            seen.append((took, place, found[0].item_ids if found else ()))
            place = (place + 1) % len(requests)
            if stop.is_set():
                return seen

    with ThreadPoolExecutor(num_clients) as pool:
        running = [pool.submit(client, number) for number in range(num_clients)]
        start.wait()
        stop.wait(duration_s)
        stop.set()
        seen = [one for future in running for one in future.result()]
        duration = time.perf_counter_ns() - started
    return Load(
        samples_ns=tuple(took for took, _, _ in seen),
        answers=tuple((place, items) for _, place, items in seen),
        duration_ns=duration,
    )


def served_load(
    name: str,
    recaller: Recalls,
    account: ServerAccount,
    requests: Sequence[RecallRequest],
    *,
    num_clients: int,
    duration_s: float,
    facts: Mapping[str, Fact],
    expected: Lists | None,
) -> Row:
    """Puts a server under load and makes a row of it, with the server's own count of rows and of runs of the graph.

    Args:
        name: of the row.
        recaller: its model is on the server.
        account: of the graph that these requests use.
        requests: as for ``run_load``.
        num_clients: as for ``run_load``.
        duration_s: as for ``run_load``.
        facts: more to put into the row.
        expected: that ``identical_lists`` of the row is held against; None if nothing is recalled, or nothing known.
    """
    before = account.read()
    load = run_load(recaller, requests, num_clients=num_clients, duration_s=duration_s)
    server = account.since(before, num_inferences=len(load.samples_ns))
    found = {
        "batch": 1,
        "clients": num_clients,
        "throughput": len(load.samples_ns) / (load.duration_ns / NS_PER_S),
        **facts,
        "identical_lists": load.identical_lists(expected),
        "num_inferences": server.num_inferences,
        "num_executions": server.num_executions,
    }
    return Row(name=name, facts=found, samples_ns=load.samples_ns)
