"""Two real servers of the same models; under load one is stopped and started again, killed, or stands still."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
from test_client import assert_same
from tiny_model import Graphs, Served, random_requests

from recgpt import AsyncRecallClient, CallPolicy, RecallClient
from recgpt.client_core import CallReport
from recgpt.engine import Engine
from recgpt.errors import ServerTimeoutError
from recgpt.serving.repository import model_versions, write_repository
from recgpt.serving.server import TritonServer
from recgpt.types import Candidates, RecallRequest

TIMEOUT_S = 30.0  # a busy machine is not what is tested here
HEDGE_AFTER_S = 0.05
NUM_CALLERS, NUM_TASKS = 8, 64


@pytest.fixture(scope="module")
def bundle(served_bundle: Path) -> Path:
    return served_bundle


@pytest.fixture(scope="module")
def repository(served: Served, small_graphs: Graphs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared server's graphs without what recalls: the fewer models, the sooner a server is there again."""
    folder = tmp_path_factory.mktemp("failover") / "models"
    write_repository(folder, small_graphs.files, model_versions(served.repository / "prefill")[0])
    return folder


@pytest.fixture
def second(repository: Path, tmp_path: Path) -> Iterator[TritonServer]:
    with TritonServer(repository, log=tmp_path / "second.log") as server:
        yield server


@dataclass
class Asking:
    """Threads that each recall a request of their own without a pause, through one client of two servers."""

    served: Served
    second: TritonServer
    bundle: Path
    expected: list[Candidates]
    requests: list[RecallRequest]
    policy: CallPolicy = field(default_factory=CallPolicy)
    reports: list[CallReport] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._stack = contextlib.ExitStack()
        urls = [self.served.server.url, self.second.url]
        client = self._stack.enter_context(
            RecallClient(urls, bundle=self.bundle, timeout_s=TIMEOUT_S, policy=self.policy, on_call=self.reports.append)
        )
        pool = self._stack.enter_context(ThreadPoolExecutor(NUM_CALLERS))
        self._asking = [pool.submit(self._ask, client, request) for request in self.requests]
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._stack.close()

    def until(self, enough: int, url: str, *, outcome: str = "ok", kind: str | None = None) -> None:
        """Waits until so many more attempts at a server ended so."""
        deadline, start = time.monotonic() + TIMEOUT_S, len(self.reports)
        while (found := self._count(start, url, outcome, kind)) < enough:
            assert time.monotonic() < deadline, f"{found} attempts at {url} ended as {outcome}"
            time.sleep(0.01)

    def end_well(self) -> None:
        """Ends; every call was answered, and as the engine answers it."""
        self._done.set()
        for future, one in zip(self._asking, self.expected, strict=True):
            several = future.result()
            assert_same(several, [one] * len(several))

    def _count(self, start: int, url: str, outcome: str, kind: str | None) -> int:
        attempts = [attempt for report in self.reports[start:] for attempt in report.attempts]
        return sum(
            (attempt.url, attempt.outcome) == (url, outcome) and kind in (None, attempt.kind) for attempt in attempts
        )

    def _ask(self, client: RecallClient, request: RecallRequest) -> list[Candidates]:
        found = []
        while not self._done.is_set():
            found.append(client.recall_many([request])[0])
        return found


@pytest.fixture
def asking(served: Served, second: TritonServer, bundle: Path, engine: Engine) -> Asking:
    requests = random_requests(NUM_CALLERS, seed=13)
    return Asking(served, second, bundle, engine.recall_many(requests), requests)


def test_no_call_fails_when_one_of_two_servers_stops_and_it_gets_calls_again_when_it_is_back(
    asking: Asking, repository: Path, tmp_path: Path
) -> None:
    first, second = asking.served.server, asking.second
    with asking:
        asking.until(20, second.url)
        second.stop()
        asking.until(50, first.url)
        port = int(second.url.rpartition(":")[2])
        with TritonServer(repository, grpc_port=port, log=tmp_path / "again.log"):
            asking.until(20, second.url)
            asking.end_well()


def test_no_call_fails_when_one_of_two_servers_is_killed(asking: Asking) -> None:
    """By the default policy: fewer calls are under way than the budget has retries at once."""
    first, second = asking.served.server, asking.second
    with asking:
        asking.until(20, second.url)
        os.kill(second.pid, signal.SIGKILL)
        asking.until(50, first.url)
        asking.end_well()
    attempts = [attempt for report in asking.reports for attempt in report.attempts]
    assert any(attempt.kind == "retry" and attempt.url == first.url for attempt in attempts)
    assert {attempt.outcome for attempt in attempts if attempt.url == second.url} == {"ok", "ServerUnavailableError"}


def test_hedged_calls_do_not_wait_for_a_server_that_stands_still(asking: Asking) -> None:
    asking.policy = CallPolicy(hedge_after_s=HEDGE_AFTER_S, retry_ratio=1.0)
    first, second = asking.served.server, asking.second
    with asking:
        asking.until(20, second.url)
        os.kill(second.pid, signal.SIGSTOP)
        try:
            asking.until(20, first.url, kind="hedge")
            stood_still = list(asking.reports)
        finally:
            os.kill(second.pid, signal.SIGCONT)
        asking.until(20, second.url)
        asking.end_well()
    hedged = [report for report in stood_still if any(attempt.kind == "hedge" for attempt in report.attempts)]
    assert any(attempt.outcome == "cancelled" and attempt.url == second.url for r in hedged for attempt in r.attempts)
    assert max(report.duration_s for report in stood_still) < TIMEOUT_S / 3


def test_without_hedges_a_server_that_stands_still_goes_out_after_three_deadlines(
    served: Served, second: TritonServer, bundle: Path
) -> None:
    (request,) = random_requests(1, seed=16)
    outcomes = []
    with RecallClient([served.server.url, second.url], bundle=bundle, timeout_s=5.0) as client:
        os.kill(second.pid, signal.SIGSTOP)
        try:
            for _ in range(40):
                try:
                    outcomes.append(len(client.recall_many([request])))
                except ServerTimeoutError:
                    outcomes.append(0)
        finally:
            os.kill(second.pid, signal.SIGCONT)
    assert outcomes.count(0) == 3
    assert all(outcomes[-20:])


def test_tasks_that_the_server_batches_each_get_their_own_users_answer(
    served: Served, bundle: Path, engine: Engine
) -> None:
    requests = random_requests(NUM_TASKS, seed=14)

    async def ask() -> list[Candidates]:
        async with AsyncRecallClient(served.server.url, bundle=bundle, timeout_s=TIMEOUT_S) as client:
            return [one for (one,) in await asyncio.gather(*(client.recall_many([each]) for each in requests))]

    assert_same(asyncio.run(ask()), engine.recall_many(requests))


def test_closing_the_async_client_ends_calls_with_an_error_of_ours(served: Served, bundle: Path) -> None:
    from recgpt.errors import RecGPTError

    async def ask() -> list[object]:
        client = AsyncRecallClient(served.server.url, bundle=bundle, timeout_s=TIMEOUT_S)
        async with client:
            calls = [asyncio.create_task(client.recall_many([each])) for each in random_requests(20, seed=15)]
            await asyncio.sleep(0)
        return await asyncio.gather(*calls, return_exceptions=True)

    for outcome in asyncio.run(ask()):
        assert isinstance(outcome, list | RecGPTError), outcome
