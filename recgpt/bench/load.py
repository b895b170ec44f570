"""Closed-loop load: N clients, each sending its next request when it has the answer to the last."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from recgpt.bench.results import Fact, Row
from recgpt.bench.server_statistics import ServerAccount
from recgpt.one_hop.answering import Recalls
from recgpt.types import RecallRequest

# Threads start within milliseconds; this only keeps one that fails to from holding the others for ever.
START_S = 30.0
NS_PER_S = 1e9


@dataclass(frozen=True, kw_only=True)
class Load:
    """What N clients saw.

    Attributes:
        samples_ns: latency of every request, client after client.
        duration_ns: from the common start to the last answer.
    """

    samples_ns: tuple[int, ...]
    duration_ns: int


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
        All latencies. An error of any request is raised.
    """
    started = 0

    def mark() -> None:
        # Read before any thread goes on; the main thread might be the last to.
        nonlocal started
        started = time.perf_counter_ns()

    start = threading.Barrier(num_clients + 1, action=mark, timeout=START_S)
    stop = threading.Event()

    def client(number: int) -> list[int]:
        samples = []
        position = number * len(requests) // num_clients
        start.wait()
        while True:
            sent = time.perf_counter_ns()
            recaller.recall_many([requests[position % len(requests)]])
            samples.append(time.perf_counter_ns() - sent)
            position += 1
            if stop.is_set():
                return samples

    with ThreadPoolExecutor(num_clients) as pool:
        running = [pool.submit(client, number) for number in range(num_clients)]
        start.wait()
        stop.wait(duration_s)
        stop.set()
        samples = [sample for future in running for sample in future.result()]
        duration = time.perf_counter_ns() - started
    return Load(samples_ns=tuple(samples), duration_ns=duration)


def served_load(
    name: str,
    recaller: Recalls,
    account: ServerAccount,
    requests: Sequence[RecallRequest],
    *,
    num_clients: int,
    duration_s: float,
    facts: Mapping[str, Fact],
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
    """
    before = account.read()
    load = run_load(recaller, requests, num_clients=num_clients, duration_s=duration_s)
    server = account.since(before, num_inferences=len(load.samples_ns))
    found = {
        "batch": 1,
        "clients": num_clients,
        "throughput": len(load.samples_ns) / (load.duration_ns / NS_PER_S),
        **facts,
        "num_inferences": server.num_inferences,
        "num_executions": server.num_executions,
    }
    return Row(name=name, facts=found, samples_ns=load.samples_ns)
