"""Two real servers of the same models; one is stopped under load, and started again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_client import assert_same
from tiny_model import Graphs, Served, random_requests

from recgpt import AsyncRecallClient, RecallClient
from recgpt.client_core import CallReport
from recgpt.engine import Engine
from recgpt.serving.repository import model_versions, write_repository
from recgpt.serving.server import TritonServer
from recgpt.types import Candidates

TIMEOUT_S = 30.0  # a busy machine is not what is tested here
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


def test_no_call_fails_when_one_of_two_servers_stops_and_it_gets_calls_again_when_it_is_back(
    served: Served, second: TritonServer, repository: Path, bundle: Path, engine: Engine, tmp_path: Path
) -> None:
    requests = random_requests(NUM_CALLERS, seed=13)
    expected = engine.recall_many(requests)
    answered: list[str] = []
    done = threading.Event()

    def note(report: CallReport) -> None:
        answered.extend(attempt.url for attempt in report.attempts if attempt.outcome == "ok")

    def until(enough: int, url: str) -> None:
        deadline, start = time.monotonic() + TIMEOUT_S, len(answered)
        while answered[start:].count(url) < enough:
            assert time.monotonic() < deadline, f"{url} answered {answered[start:].count(url)} calls"
            time.sleep(0.01)

    def ask(client: RecallClient, number: int) -> list[Candidates]:
        found = []
        while not done.is_set():
            found.append(client.recall_many([requests[number]])[0])
        return found

    urls = [served.server.url, second.url]
    with (
        RecallClient(urls, bundle=bundle, timeout_s=TIMEOUT_S, on_call=note) as client,
        ThreadPoolExecutor(NUM_CALLERS) as pool,
    ):
        asking = [pool.submit(ask, client, number) for number in range(NUM_CALLERS)]
        try:
            until(20, second.url)
            second.stop()
            until(50, served.server.url)
            port = int(second.url.rpartition(":")[2])
            with TritonServer(repository, grpc_port=port, log=tmp_path / "again.log"):
                until(20, second.url)
                done.set()
                found = [future.result() for future in asking]
        finally:
            done.set()
    for several, one in zip(found, expected, strict=True):
        assert_same(several, [one] * len(several))


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
