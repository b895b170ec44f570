"""Retries, hedges and balance, in pretended time: the decisions alone, without threads, sockets or sleeping."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recgpt.errors import (
    CertificateError,
    ConfigError,
    ModelUnavailableError,
    RequestError,
    RequestTooLargeError,
    ServerError,
    ServerOverloadedError,
    ServerTimeoutError,
    ServerUnavailableError,
)
from recgpt.remote.attempts import Attempts, Call, Send, Wait
from recgpt.remote.network import Outcome
from recgpt.remote.policy import CallPolicy
from recgpt.remote.servers import Health, Servers

PROPERTIES = settings(max_examples=200, deadline=None, derandomize=True, database=None)
EPSILON_S = 1e-9  # sums of pretended seconds


@dataclass
class World:
    """Servers that answer after some time, or fail, as a table says; and the clock that all of it goes by."""

    urls: list[str]
    policy: CallPolicy
    behaviour: object  # (url, number of the attempt) -> (seconds, error or None)
    now: float = 100.0
    sent: list[tuple[float, str]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.servers = Servers(self.urls, clock=lambda: self.now, rng=random.Random(0))
        for url in self.urls:
            self.servers.probed(url, ok=True)
        self.attempts = Attempts(self.policy, self.servers, random.Random(1))

    def call(self, timeout_s: float = 1.0) -> Call:
        return Call(timeout_s, lambda: self.now)

    def run(self, call: Call) -> object:
        """What a driver does, with ends of attempts looked up instead of waited for."""
        steps = self.attempts.run("asking", call)
        pending: dict[int, tuple[float, str, Outcome]] = {}
        try:
            action = next(steps)
            while True:
                if isinstance(action, Send):
                    seconds, error = self.behaviour(action.url, action.number)
                    if seconds >= action.timeout_s:
                        seconds, error = action.timeout_s, ServerTimeoutError("late")
                    self.sent.append((self.now, action.url))
                    answer = None if error else f"answer of {action.url}"
                    pending[action.number] = (self.now + seconds, action.url, Outcome(action.number, answer, error))
                assert isinstance(action, Send | Wait)
                ends = min((end for end, _, _ in pending.values()), default=float("inf"))
                until = self.now + (float("inf") if action.wait_s is None else action.wait_s)
                assert min(ends, until) < float("inf"), "waits for nothing"
                self.now = min(ends, until)
                outcome = None
                if ends <= until:
                    number = min(pending, key=lambda number: pending[number][0])
                    outcome = pending.pop(number)[2]
                action = steps.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            self.cancelled += [url for _, url, _ in pending.values()]


def always(seconds: float, error: Exception | None = None):
    return lambda url, number: (seconds, error)


def test_an_answer_is_one_attempt() -> None:
    world = World(["a:1"], CallPolicy(), always(0.1))
    call = world.call()
    assert world.run(call) == "answer of a:1"
    (record,) = call.records
    assert (record.kind, record.url, record.outcome, record.what) == ("first", "a:1", "ok", "asking")
    assert record.duration_s == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("error", "num_attempts_alone", "num_attempts_of_three"),
    [
        (ServerUnavailableError("gone"), 3, 3),
        (ServerOverloadedError("full"), 3, 3),
        (ModelUnavailableError("not here"), 1, 3),
        (CertificateError("expired"), 1, 3),
        (RequestTooLargeError("larger than max"), 1, 1),
        (ServerTimeoutError("late"), 1, 1),
        (ServerError("boom"), 1, 1),
        (RequestError("no such shape"), 1, 1),
    ],
)
def test_only_what_is_safe_and_may_help_is_repeated(
    error: Exception, num_attempts_alone: int, num_attempts_of_three: int
) -> None:
    for urls, expected in ((["a:1"], num_attempts_alone), (["a:1", "b:1", "c:1"], num_attempts_of_three)):
        world = World(urls, CallPolicy(max_attempts=3), always(0.01, error))
        with pytest.raises(type(error), match=str(error)):
            world.run(world.call(10.0))
        assert len(world.sent) == expected


def test_another_server_is_asked_at_once_and_the_same_one_after_a_wait() -> None:
    down = ServerUnavailableError("down")
    world = World(["a:1", "b:1"], CallPolicy(), lambda url, number: (0.0, down if number == 0 else None))
    world.run(world.call())
    (first, url), (second, other) = world.sent
    assert url != other
    assert first == second
    alone = World(
        ["a:1"], CallPolicy(backoff_s=0.5, max_backoff_s=0.5), lambda url, number: (0.0, None if number else down)
    )
    alone.run(alone.call())
    assert 0 < alone.sent[1][0] - alone.sent[0][0] <= 0.5


behaviours = st.tuples(
    st.floats(0, 2),
    st.sampled_from(
        [
            None,
            ServerUnavailableError("down"),
            ServerOverloadedError("full"),
            ModelUnavailableError("not here"),
            RequestError("bad"),
        ]
    ),
)


@given(
    table=st.lists(behaviours, min_size=1, max_size=12),
    num_servers=st.integers(1, 4),
    policy=st.builds(
        CallPolicy,
        max_attempts=st.integers(1, 6),
        backoff_s=st.floats(0, 0.9),
        retry_ratio=st.floats(0, 1),
        hedge_after_s=st.none() | st.floats(0.01, 1),
    ),
    timeouts=st.lists(st.floats(0.05, 2), min_size=1, max_size=8),
)
@PROPERTIES
def test_no_call_outlives_its_deadline_whatever_servers_do(table, num_servers, policy, timeouts) -> None:
    count = iter(range(10**6))
    world = World([f"s{n}:1" for n in range(num_servers)], policy, lambda url, number: table[next(count) % len(table)])
    for timeout_s in timeouts:
        call, began, before = world.call(timeout_s), world.now, len(world.sent)
        with contextlib.suppress(ServerError, RequestError):
            world.run(call)
        assert world.now <= began + timeout_s + EPSILON_S
        assert len(world.sent) - before <= policy.max_attempts
        assert len(call.records) == len(world.sent) - before
        kinds = [record.kind for record in call.records]
        assert kinds.count("hedge") <= policy.max_attempts - 1
    # Everything that was begun was ended: nothing counts as outstanding for ever.
    assert all(server.outstanding == 0 for server in world.servers._servers.values())


@given(ratio=st.floats(0, 1), num_calls=st.integers(1, 300))
@PROPERTIES
def test_a_dead_server_is_not_buried_under_retries(ratio: float, num_calls: int) -> None:
    policy = CallPolicy(max_attempts=5, backoff_s=0.0, retry_ratio=ratio)
    world = World(["a:1"], policy, always(0.001, ServerUnavailableError("down")))
    for _ in range(num_calls):
        with pytest.raises(ServerUnavailableError):
            world.run(world.call())
    assert len(world.sent) <= num_calls * (1 + ratio) + 10


def test_the_hedge_wins_on_a_slow_server_and_the_slow_one_is_cancelled() -> None:
    slow = "a:1"
    policy = CallPolicy(hedge_after_s=0.05)
    world = World([slow, "b:1"], policy, lambda url, number: (5.0 if number == 0 else 0.01, None))
    call = world.call(10.0)
    answer = world.run(call)
    first, second = (url for _, url in world.sent)
    assert answer == f"answer of {second}"
    assert first != second
    assert world.now == pytest.approx(100.06)
    assert world.cancelled == [first]
    assert {(record.kind, record.outcome) for record in call.records} == {("first", "cancelled"), ("hedge", "ok")}


def test_no_hedge_without_a_second_server_and_none_before_its_time() -> None:
    alone = World(["a:1"], CallPolicy(hedge_after_s=0.05), always(0.2))
    assert alone.run(alone.call()) == "answer of a:1"
    assert len(alone.sent) == 1
    quick = World(["a:1", "b:1"], CallPolicy(hedge_after_s=0.05), always(0.04))
    quick.run(quick.call())
    assert len(quick.sent) == 1


def test_when_the_hedge_fails_the_first_one_may_still_answer() -> None:
    def behaviour(url, number):
        return (0.3, None) if number == 0 else (0.01, ServerUnavailableError("down"))

    world = World(["a:1", "b:1"], CallPolicy(hedge_after_s=0.05), behaviour)
    assert world.run(world.call()) == f"answer of {world.sent[0][1]}"


def test_time_that_is_kept_back_is_used_only_when_taken() -> None:
    world = World(["a:1"], CallPolicy(), always(5.0))
    call = Call(1.0, lambda: world.now, reserve=True)
    with pytest.raises(ServerTimeoutError):
        world.run(call)
    assert world.now == pytest.approx(100.7)
    with pytest.raises(ServerTimeoutError, match="before it could be sent"):
        world.run(call)
    call.take_reserve()
    world.behaviour = always(0.1)
    assert world.run(call) == "answer of a:1"


def test_a_failing_server_is_left_out_and_comes_back_when_a_probe_succeeds() -> None:
    ill = {"a:1"}
    policy = CallPolicy(retry_ratio=1.0)
    world = World(
        ["a:1", "b:1"], policy, lambda url, number: (0.01, ServerUnavailableError("down") if url in ill else None)
    )
    for _ in range(40):
        world.run(world.call())
    to_ill = [url for _, url in world.sent].count("a:1")
    assert to_ill == 3  # three failures in a row, and no more
    url, wait_s = world.servers.next_probe()
    assert url == "a:1"
    world.now += wait_s
    assert world.servers.next_probe() == ("a:1", 0.0)
    world.servers.probed("a:1", ok=False)
    later = world.servers.next_probe()[1]
    assert later > wait_s
    world.servers.probed("a:1", ok=True)
    assert world.servers.next_probe() is None
    ill.clear()
    before = len(world.sent)
    for _ in range(40):
        world.run(world.call())
    assert {url for _, url in world.sent[before:]} == {"a:1", "b:1"}


def test_a_server_that_says_it_cannot_serve_is_left_out_at_once() -> None:
    world = World(
        ["a:1", "b:1"], CallPolicy(), lambda url, number: (0.01, ModelUnavailableError("no") if url == "a:1" else None)
    )
    for _ in range(20):
        assert world.run(world.call()) == "answer of b:1"
    assert [url for _, url in world.sent].count("a:1") == 1


def test_calls_go_to_whom_has_least_to_do() -> None:
    servers = Servers(["a:1", "b:1"], clock=lambda: 0.0, rng=random.Random(0))
    for url in servers.urls:
        servers.probed(url, ok=True)
    for _ in range(3):
        servers.begin("a:1")
    assert {servers.pick() for _ in range(20)} == {"b:1"}
    for _ in range(3):
        servers.end("a:1", Health.GOOD)
    servers.begin("b:1")
    assert {servers.pick() for _ in range(20)} == {"a:1"}


def test_many_servers_share_the_load_evenly_enough() -> None:
    urls = [f"s{n}:1" for n in range(8)]
    servers = Servers(urls, clock=lambda: 0.0, rng=random.Random(0))
    for url in urls:
        servers.probed(url, ok=True)
    counts = dict.fromkeys(urls, 0)
    for _ in range(800):  # none ends: only the choice of two keeps them level
        url = servers.pick()
        servers.begin(url)
        counts[url] += 1
    assert max(counts.values()) - min(counts.values()) <= 8


def test_servers_that_never_answered_get_no_calls_and_checked_ones_do_when_all_fail() -> None:
    servers = Servers(["a:1", "b:1"], clock=lambda: 0.0, rng=random.Random(0))
    with pytest.raises(ServerUnavailableError, match="a:1, b:1"):
        servers.pick()
    servers.probed("a:1", ok=True)
    servers.begin("a:1")
    servers.end("a:1", Health.GONE)
    assert servers.pick() == "a:1"


@pytest.mark.parametrize(
    "values",
    [
        {"max_attempts": 0},
        {"backoff_s": -1.0},
        {"backoff_s": 2.0, "max_backoff_s": 1.0},
        {"retry_ratio": 1.5},
        {"hedge_after_s": 0.0},
    ],
)
def test_a_policy_out_of_range_is_refused(values) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        CallPolicy(**values)


@pytest.mark.parametrize("urls", [[], ["a:1", "a:1"]])
def test_addresses_are_there_and_distinct(urls) -> None:
    with pytest.raises(ConfigError, match="at least one address, each once"):
        Servers(urls, clock=lambda: 0.0, rng=random.Random(0))
