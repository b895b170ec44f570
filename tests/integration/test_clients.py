"""Both clients over pretended servers of a real bundle: answers, faults, ladder, reports. The engine is the oracle."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_model import Export, bundle_copy, random_requests

from recgpt import AsyncRecallClient, CallPolicy, RecallClient
from recgpt.bundle import Bundle
from recgpt.bundle_store import BundleStore
from recgpt.client_core import CallReport
from recgpt.engine import Engine
from recgpt.errors import (
    BundleError,
    BundleMismatchError,
    ConfigError,
    RequestError,
    ServerError,
    ServerOverloadedError,
    ServerTimeoutError,
    ServerUnavailableError,
    ShortfallError,
)
from recgpt.publishing import Publisher
from recgpt.recall.core import PretrainedOnlyWarning
from recgpt.recall_by import RecallBy
from recgpt.testing import FakeNetwork, FakeServer
from recgpt.types import Candidates, Degraded, RecallRequest

# The same graphs in the same library, batched or padded otherwise; scores are sums of 16 products of about 1.
SCORE_TOLERANCE = 1e-4
WAIT_S = 30.0  # a busy machine is not what is tested here
A, B = "a:1", "b:1"

HISTORY = ["i5", "i7", "i9"]
TWO = RecallRequest(history=HISTORY, user_id=300, k=10, quotas=(6, 4))
THREE = RecallRequest(history=HISTORY, user_id=300, k=10, quotas=(5, 3, 2))  # no fused graph of three: step by step


class Recall:
    """Either client, called the same way."""

    def __init__(self, kind: str, network: FakeNetwork, bundle: Path, recall_by: str = "client") -> None:
        self.kind = kind
        self.recall_by = recall_by
        self.network = network
        self.bundle = bundle
        self.reports: list[CallReport] = []

    def __call__(self, requests: list[RecallRequest], *, urls: object = A, between=None, **options) -> list[Candidates]:
        """Opens a client, lets ``between`` change the world, and recalls."""
        options = {"timeout_s": WAIT_S, "on_call": self.reports.append, "recall_by": self.recall_by} | options
        if self.kind == "sync":
            with RecallClient(urls, bundle=self.bundle, network=self.network, **options) as client:
                if between:
                    between()
                return client.recall_many(requests)
        return asyncio.run(self._async(requests, urls, between, options))

    async def _async(self, requests, urls, between, options) -> list[Candidates]:
        async with AsyncRecallClient(urls, bundle=self.bundle, network=self.network, **options) as client:
            if between:
                between()
            return await client.recall_many(requests)


@pytest.fixture
def servers(export: Export) -> dict[str, FakeServer]:
    return {url: FakeServer(export.bundle) for url in (A, B)}


@pytest.fixture(params=["sync", "async"])
def recall(request: pytest.FixtureRequest, servers: dict[str, FakeServer], export: Export) -> Recall:
    return Recall(request.param, FakeNetwork(servers), export.bundle)


@pytest.fixture(params=[f"{kind}-{recall_by}" for kind in ("sync", "async") for recall_by in RecallBy])
def anywhere(request: pytest.FixtureRequest, servers: dict[str, FakeServer], export: Export) -> Recall:
    """As ``recall``, in each layout."""
    kind, recall_by = request.param.split("-")
    return Recall(kind, FakeNetwork(servers), export.bundle, recall_by)


def assert_same(found: list[Candidates], expected: list[Candidates]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.item_ids == other.item_ids
        assert one.steps.tolist() == other.steps.tolist()
        assert one.generated_ids == other.generated_ids
        assert one.cold_start == other.cold_start
        assert one.degraded is None
        np.testing.assert_allclose(one.scores, other.scores, atol=SCORE_TOLERANCE)


def setting(server: FakeServer, **values: object) -> Callable[[], None]:
    return lambda: [setattr(server, name, value) for name, value in values.items()] and None


def failing(server: FakeServer, *errors: ServerError) -> Callable[[], None]:
    return lambda: server.fail_next(*errors)


def test_answers_are_the_engines(anywhere: Recall, engine: Engine) -> None:
    requests = random_requests(60, seed=10)
    if anywhere.recall_by == "graph":
        requests = [request for request in requests if len(request.quotas or ()) <= 2]
    assert_same(anywhere(requests), engine.recall_many(requests))


def test_errors_are_the_engines(anywhere: Recall) -> None:
    with pytest.raises(ShortfallError) as caught:
        anywhere([RecallRequest(history=["i1"], k=300)])
    assert caught.value.available == 299
    assert isinstance(anywhere.reports[-1].error, ShortfallError)
    with pytest.raises(RequestError, match="expected a RecallRequest"):
        anywhere(["no request"])  # type: ignore[list-item]


def test_no_server_is_an_error_when_the_client_starts(anywhere: Recall, servers: dict[str, FakeServer]) -> None:
    for server in servers.values():
        server.is_down = True
    with pytest.raises(ServerUnavailableError, match="down"):
        anywhere([TWO], urls=[A, B])


def test_one_of_two_servers_is_enough_to_start(
    anywhere: Recall, servers: dict[str, FakeServer], engine: Engine
) -> None:
    servers[A].is_down = True
    assert_same(anywhere([TWO] * 3, urls=[A, B]), engine.recall_many([TWO] * 3))


def test_a_server_of_another_model_is_refused(
    other_bundle: Path, export: Export, anywhere: Recall, tmp_path: Path
) -> None:
    """Same sizes, same version, other weights: only the answer to the test request tells them apart."""
    known, stranger = FakeServer(export.bundle), FakeServer(other_bundle)
    stranger._served = known._served
    anywhere.bundle = bundle_copy(export.bundle, tmp_path / "bundle", recalls=(2,))  # all that the other one has
    anywhere.network = FakeNetwork({A: known, B: stranger})
    with pytest.raises(BundleMismatchError, match="another model"):
        anywhere([TWO], urls=[A, B])


def test_a_server_that_goes_is_replaced_by_the_other_within_the_call(
    anywhere: Recall, servers: dict[str, FakeServer], engine: Engine
) -> None:
    asked = THREE if anywhere.recall_by == "client" else TWO
    for url in (A, B):
        found = anywhere([asked], urls=[A, B], between=setting(servers[url], is_down=True))
        servers[url].is_down = False
        assert_same(found, engine.recall_many([asked]))


def test_overload_is_retried_after_a_wait_and_told_if_it_lasts(
    anywhere: Recall, servers: dict[str, FakeServer], engine: Engine
) -> None:
    full = ServerOverloadedError("full")
    assert_same(anywhere([TWO], between=failing(servers[A], full, full)), engine.recall_many([TWO]))
    assert [record.kind for record in anywhere.reports[-1].attempts] == ["first", "retry", "retry"]
    with pytest.raises(ServerOverloadedError):
        anywhere([TWO], between=failing(servers[A], full, full, full))
    with pytest.raises(ServerOverloadedError):
        anywhere([TWO], policy=CallPolicy(max_attempts=1), between=failing(servers[A], full))


def test_one_deadline_covers_all_calls_of_a_recall(recall: Recall, servers: dict[str, FakeServer]) -> None:
    """Three steps of 0.4 s each, one second for all of them."""
    started = time.monotonic()
    with pytest.raises(ServerTimeoutError):
        recall([THREE], timeout_s=1.0, between=setting(servers[A], delay_s=0.4))
    outcomes = [record.outcome for record in recall.reports[-1].attempts]
    assert outcomes == ["ok", "ok", "ServerTimeoutError"]
    assert recall.reports[-1].duration_s == pytest.approx(1.0, abs=0.3)  # a busy machine wakes late
    assert time.monotonic() - started < WAIT_S


def test_a_hedge_beats_a_slow_server_whose_call_is_cancelled(
    anywhere: Recall, servers: dict[str, FakeServer], engine: Engine
) -> None:
    expected = engine.recall_many([TWO])
    policy = CallPolicy(hedge_after_s=0.02)
    deadline = time.monotonic() + WAIT_S
    hedged: list[CallReport] = []
    while not hedged and time.monotonic() < deadline:  # the slow one is asked first about every second time
        found = anywhere([TWO], urls=[A, B], policy=policy, between=setting(servers[A], delay_s=WAIT_S))
        servers[A].delay_s = 0.0
        assert_same(found, expected)
        # On a busy machine the fast one may be hedged as well.
        hedged = [
            report for report in anywhere.reports if (A, "first") in {(one.url, one.kind) for one in report.attempts}
        ]
    assert hedged
    for report in hedged:
        assert {(one.url, one.kind, one.outcome) for one in report.attempts} == {
            (A, "first", "cancelled"),
            (B, "hedge", "ok"),
        }
    attempts = [one for report in anywhere.reports for one in report.attempts]
    num_cancelled = sum((one.url, one.outcome) == (A, "cancelled") for one in attempts)
    while servers[A].num_cancelled < num_cancelled and time.monotonic() < deadline:
        time.sleep(0.01)
    assert servers[A].num_cancelled == num_cancelled


# The ladder


def one_interest(engine: Engine) -> Candidates:
    return engine.recall(HISTORY, user_id=300, k=10, quotas=(10,))


def test_without_the_ladder_a_failure_is_an_error(anywhere: Recall, servers: dict[str, FakeServer]) -> None:
    with pytest.raises(ServerUnavailableError):
        anywhere([TWO], between=setting(servers[A], is_down=True))


def test_first_rung_one_interest_when_all_of_them_fail(
    anywhere: Recall, servers: dict[str, FakeServer], engine: Engine
) -> None:
    (found,) = anywhere([TWO], degrade=True, between=failing(servers[A], ServerError("out of memory")))
    assert found.degraded == Degraded(rung="fewer_interests", reason="out of memory")
    assert found.item_ids == one_interest(engine).item_ids
    assert found.steps.tolist() == [1] * 10
    assert found.generated_ids == ()


def test_first_rung_in_time_that_was_kept_back(anywhere: Recall, engine: Engine) -> None:
    """All interests take longer than their share of the time; the single one still fits."""

    class SlowOnce(FakeServer):
        is_slow = False

        def begin(self, rpc) -> float:
            was_slow, self.is_slow = self.is_slow, False
            return super().begin(rpc) + (60.0 if was_slow else 0.0)

    slow = SlowOnce(anywhere.bundle)
    anywhere.network = FakeNetwork({A: slow})
    (found,) = anywhere([TWO], degrade=True, timeout_s=2.0, between=setting(slow, is_slow=True))
    assert found.degraded is not None and found.degraded.rung == "fewer_interests"
    assert found.item_ids == one_interest(engine).item_ids
    assert anywhere.reports[-1].duration_s < 2.0


def test_first_rung_keeps_the_interests_there_are(
    recall: Recall, servers: dict[str, FakeServer], engine: Engine
) -> None:
    """The first of three steps is answered, the second is not: nothing more is asked."""
    calls: list[str] = []

    def second_fails() -> None:
        begin = servers[A].begin

        def failing_begin(rpc):
            delay = begin(rpc)
            calls.append(str(rpc))
            if "decode" in str(rpc):
                raise ServerError("lost")
            return delay

        servers[A].begin = failing_begin  # type: ignore[method-assign]

    (found,) = recall([THREE], degrade=True, between=second_fails)
    assert found.degraded == Degraded(rung="fewer_interests", reason="lost")
    assert [call.split()[1] for call in calls] == ["prefill", "decode"]
    assert found.item_ids == one_interest(engine).item_ids


def test_last_rung_popular_items_nobody_saw(anywhere: Recall, servers: dict[str, FakeServer], engine: Engine) -> None:
    (found,) = anywhere([TWO], degrade=True, between=setting(servers[A], is_down=True))
    assert found.degraded is not None and found.degraded.rung == "popular"
    assert "down" in found.degraded.reason
    popularity = engine.catalogue.popularity
    rows = sorted(range(1, 301), key=lambda row: (-popularity[row], row))
    assert list(found.item_ids) == [f"i{row}" for row in rows if f"i{row}" not in HISTORY][:10]
    assert found.steps.tolist() == [0] * 10
    assert anywhere.reports[-1].error is None


def test_wrong_requests_are_errors_on_every_rung(anywhere: Recall, servers: dict[str, FakeServer]) -> None:
    for between in (None, setting(servers[A], is_down=True)):
        with pytest.raises(ShortfallError):
            anywhere([RecallRequest(history=["i1"], k=300)], degrade=True, between=between)


@pytest.mark.parametrize("recall_by", RecallBy)
def test_with_the_ladder_a_client_starts_without_servers_and_recovers(
    recall_by: str, servers: dict[str, FakeServer], export: Export, engine: Engine
) -> None:
    servers[A].is_down = True
    network = FakeNetwork(servers)
    with RecallClient(A, bundle=export.bundle, network=network, degrade=True, recall_by=recall_by) as client:
        found = client.recall_many([TWO])[0]
        assert found.degraded is not None and found.degraded.rung == "popular"
        servers[A].is_down = False
        deadline = time.monotonic() + WAIT_S
        while (found := client.recall_many([TWO])[0]).degraded and time.monotonic() < deadline:
            time.sleep(0.02)
        assert_same([found], engine.recall_many([TWO]))


def test_an_ejected_server_comes_back(servers: dict[str, FakeServer], export: Export) -> None:
    with RecallClient([A, B], bundle=export.bundle, network=FakeNetwork(servers)) as client:
        servers[A].is_down = True
        for _ in range(20):
            client.recall_many([TWO])
        servers[A].calls.clear()
        servers[A].is_down = False
        deadline = time.monotonic() + WAIT_S
        while not any("model interests_2" in call for call in servers[A].calls) and time.monotonic() < deadline:
            client.recall_many([TWO])
        # Asked for its models and for the test request before it was asked for a user's.
        assert servers[A].calls[0] == "asking for prefill"
        assert any("model interests_2" in call for call in servers[A].calls)


# Many callers


@pytest.fixture(scope="module")
def expected(engine: Engine) -> Iterator[tuple[list[RecallRequest], list[Candidates]]]:
    requests = random_requests(64, seed=12)
    yield requests, engine.recall_many(requests)


def test_64_threads_each_get_their_own_users_answer(servers, export: Export, expected) -> None:
    requests, answers = expected
    policy = CallPolicy(hedge_after_s=0.005)  # also with two answers under way for one question
    network = FakeNetwork(servers)
    with RecallClient([A, B], bundle=export.bundle, network=network, policy=policy, timeout_s=WAIT_S) as client:
        together = threading.Barrier(64)

        def ask(number: int) -> list[Candidates]:
            together.wait()
            return [client.recall_many([requests[number]])[0] for _ in range(3)]

        with ThreadPoolExecutor(64) as pool:
            found = list(pool.map(ask, range(64)))
    for several, answer in zip(found, answers, strict=True):
        assert_same(several, [answer] * 3)


def test_64_tasks_each_get_their_own_users_answer(servers, export: Export, expected) -> None:
    requests, answers = expected

    async def ask() -> list[Candidates]:
        policy = CallPolicy(hedge_after_s=0.005)
        network = FakeNetwork(servers)
        async with AsyncRecallClient(
            [A, B], bundle=export.bundle, network=network, policy=policy, timeout_s=WAIT_S
        ) as client:
            calls: list[Awaitable[list[Candidates]]] = [client.recall_many([request]) for request in requests]
            return [found for (found,) in await asyncio.gather(*calls)]

    assert_same(asyncio.run(ask()), answers)


def test_a_cancelled_task_cancels_its_call(servers: dict[str, FakeServer], export: Export) -> None:
    async def give_up() -> None:
        async with AsyncRecallClient(A, bundle=export.bundle, network=FakeNetwork(servers)) as client:
            servers[A].delay_s = WAIT_S
            task = asyncio.create_task(client.recall_many([TWO]))
            while servers[A].num_inferences < 2:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert servers[A].num_cancelled == 1

    asyncio.run(give_up())


# Life


@pytest.mark.parametrize("recall_by", RecallBy)
def test_the_async_client_follows_a_store(recall_by: str, export: Export, other_bundle: Path, tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "bundles", say=lambda text: None)
    publisher.publish(export.bundle)
    publisher.publish(other_bundle)
    publisher.roll_back()
    store: BundleStore = publisher.store
    first, second = store.versions()

    class Both(FakeServer):
        """Serves the two versions side by side, as a server does that was published to."""

        def __init__(self) -> None:
            super().__init__(export.bundle)
            self.other = FakeServer(other_bundle)

        def answer(self, rpc):
            return self.other.answer(rpc) if getattr(rpc, "version", "") == str(second) else super().answer(rpc)

    expected = {}
    for version in (first, second):
        with Engine.load(store.folder(version), num_threads=1) as engine:
            expected[version] = engine.recall_many([TWO])

    async def follow() -> None:
        network = FakeNetwork({A: Both()})
        async with AsyncRecallClient(
            A, bundle=store.path, network=network, follow_s=0.02, recall_by=recall_by
        ) as client:
            assert_same(await client.recall_many([TWO]), expected[first])
            assert not await client.reload()
            store.switch(second)
            deadline = time.monotonic() + WAIT_S
            while client.bundle.manifest.version != second and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert_same(await client.recall_many([TWO]), expected[second])
            store.switch(first)
        with pytest.raises(BundleError, match="async with"):
            await client.recall(HISTORY)
        await client.close()

    asyncio.run(follow())


def test_reports_tell_stages_and_attempts(recall: Recall) -> None:
    before = time.time_ns()
    (found,) = recall([THREE])
    (report,) = recall.reports
    assert before <= report.started_ns <= time.time_ns()
    assert (report.num_requests, report.error, list(report.candidates)) == (1, None, [found])
    assert [record.what.split()[1] for record in report.attempts] == ["prefill", "decode", "decode"]
    assert all(record.kind == "first" and record.outcome == "ok" and record.url == A for record in report.attempts)
    times = [record.start_s for record in report.attempts]
    assert times == sorted(times)
    assert sum(record.duration_s for record in report.attempts) <= report.duration_s


def test_reports_tell_who_recalled_by_which_model(anywhere: Recall) -> None:
    anywhere([TWO])
    (report,) = anywhere.reports
    model = {"client": "interests_2", "graph": "recall_2", "engine": "recall_engine"}[anywhere.recall_by]
    assert [record.what.split()[1] for record in report.attempts] == [model]
    assert report.recall_by == anywhere.recall_by


def test_several_steps_of_a_model_that_was_only_pretrained_are_warned_of(
    anywhere: Recall, export: Export, tmp_path: Path
) -> None:
    training = replace(Bundle.open(export.bundle).manifest.training, stage="pretrained", num_prompts=0)
    anywhere.bundle = bundle_copy(export.bundle, tmp_path / "bundle", training=training)
    anywhere([replace(TWO, quotas=None)])
    with pytest.warns(PretrainedOnlyWarning):
        anywhere([TWO])


@pytest.mark.parametrize("recall_by", ["graph", "engine"])
def test_no_other_model_need_be_served(
    recall_by: str, servers: dict[str, FakeServer], export: Export, engine: Engine
) -> None:
    models = {"graph": ("recall_1", "recall_2"), "engine": ("recall_engine",)}[recall_by]
    servers[A]._served = {(name, version) for name, version in servers[A]._served if name in models}
    found = Recall("sync", FakeNetwork(servers), export.bundle, recall_by)([TWO])
    assert_same(found, engine.recall_many([TWO]))


def test_items_that_came_or_went_since_the_export(export: Export, tmp_path: Path) -> None:
    """The engine knows them; the graphs can leave items out, and know none that came."""
    publisher = Publisher(tmp_path / "bundles", say=lambda text: None)
    publisher.publish(export.bundle)
    store = publisher.store.path

    def by(recall_by: str) -> list[Candidates]:
        network = FakeNetwork({A: FakeServer(store)})
        with RecallClient(A, bundle=store, network=network, recall_by=recall_by, timeout_s=WAIT_S) as client:
            return client.recall_many([TWO])

    def by_engine() -> list[Candidates]:
        with Engine.load(store, num_threads=1) as engine:
            return engine.recall_many([TWO])

    (before,) = by_engine()
    publisher.delete_items(before.item_ids[:3])
    (after,) = by_engine()
    assert set(after.item_ids).isdisjoint(before.item_ids[:3])
    for recall_by in RecallBy:
        assert_same(by(recall_by), [after])

    manifest = Bundle.open(store).manifest
    publisher.add_items(["best"], 100 * np.array([manifest.fingerprint], dtype=np.float32))
    for recall_by in (RecallBy.CLIENT, RecallBy.ENGINE):
        assert_same(by(recall_by), by_engine())
    with pytest.raises(BundleError, match="1 items were added.*recall_by='engine'"):
        by("graph")

    # So many of the test request's best items are gone that it says nothing any more.
    best = [f"i{row}" for row in manifest.recalled]
    publisher.delete_items(best[:-5])
    assert_same(by("engine"), by_engine())


def test_options_out_of_range_are_refused(export: Export) -> None:
    with pytest.raises(ConfigError, match="timeout_s = 0"):
        RecallClient(A, bundle=export.bundle, timeout_s=0)
    with pytest.raises(ConfigError, match="follow_s"):
        AsyncRecallClient(A, bundle=export.bundle, follow_s=-1)
    with pytest.raises(ConfigError, match="pretended"):
        RecallClient("c:1", bundle=export.bundle, network=FakeNetwork({}))
