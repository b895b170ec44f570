"""One call to whichever server answers it: what to send where and when, as a generator. No I/O, no sleeping.

A driver carries out the actions that ``Attempts.run`` yields, and sends it outcomes: ``ServerPool``, which blocks, or
``AsyncServerPool``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal

from recgpt.errors import (
    ModelUnavailableError,
    RequestError,
    RequestTooLargeError,
    ServerError,
    ServerOverloadedError,
    ServerRefusedError,
    ServerTimeoutError,
    ServerUnavailableError,
)
from recgpt.remote.budget import RetryBudget
from recgpt.remote.network import Outcome
from recgpt.remote.policy import CallPolicy
from recgpt.remote.servers import Health, Servers

# Part of the time that is kept back for a lower rung of the degrade ladder.
_RESERVE = 0.3

AttemptKind = Literal["first", "retry", "hedge"]


@dataclass(frozen=True)
class Send:
    """Send to a server; then wait for this or any earlier attempt, ``wait_s`` at most, or until one ends if None."""

    number: int
    url: str
    timeout_s: float
    wait_s: float | None


@dataclass(frozen=True)
class Wait:
    """Wait for an attempt that is under way, if any, ``wait_s`` at most; or just so long if none is."""

    wait_s: float | None


Action = Send | Wait
# An outcome, or None if the time of the wait passed first.
Attempting = Generator[Action, Outcome | None, Any]


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """One attempt that was made.

    Attributes:
        what: was asked.
        url: of the server.
        kind: ``first``, ``retry`` or ``hedge``.
        start_s: when, in seconds since its recall began.
        duration_s: until it ended or was given up.
        outcome: ``ok``, ``cancelled`` for the slower one of a hedge, or the name of the error's class.
    """

    what: str
    url: str
    kind: AttemptKind
    start_s: float
    duration_s: float
    outcome: str


class Call:
    """The time and the attempts of one recall, however many calls to servers it takes.

    Args:
        timeout_s: for all of it.
        clock: seconds, monotonic.
        reserve: keep some of the time back until ``take_reserve``.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float], *, reserve: bool = False) -> None:
        self.clock = clock
        self.start = clock()
        self.timeout_s = timeout_s
        self.records: list[AttemptRecord] = []
        self._end = self.start + timeout_s
        self._soft_end = self.start + timeout_s * (1 - _RESERVE) if reserve else self._end

    def remaining_s(self) -> float:
        """What is left; negative if it has passed."""
        return self._soft_end - self.clock()

    def take_reserve(self) -> None:
        """What was kept back may be used from now on."""
        self._soft_end = self._end


class Attempts:
    """Decides about retries, hedges and servers; one object for all calls of a client. Thread-safe.

    Args:
        policy: what the caller decided.
        servers: to choose from.
        rng: for the back-off.
    """

    def __init__(self, policy: CallPolicy, servers: Servers, rng: random.Random) -> None:
        self.policy = policy
        self.servers = servers
        self.budget = RetryBudget(policy.retry_ratio)
        self.rng = rng

    def run(self, what: str, call: Call) -> Attempting:
        """Yields actions, is sent outcomes, returns the answer; the driver cancels what is then still under way.

        Args:
            what: is asked, for messages.
            call: whose time it takes.

        Raises:
            ServerTimeoutError: the deadline passed.
            ServerError: the last one, when there may be no further attempt.
            RequestError: the request is at fault.
        """
        self.budget.put()
        one = _OneCall(self, what, call)
        try:
            return (yield from one.run())
        finally:
            one.give_up_the_rest()


@dataclass
class _Running:
    url: str
    kind: AttemptKind
    start: float


class _OneCall:
    """The state of one call."""

    def __init__(self, attempts: Attempts, what: str, call: Call) -> None:
        self._policy, self._servers = attempts.policy, attempts.servers
        self._budget, self._rng = attempts.budget, attempts.rng
        self._what, self._call = what, call
        self._running: dict[int, _Running] = {}
        self._tried: list[str] = []
        self._num_retries = 0

    def run(self) -> Attempting:
        action: Action = self._send("first")
        while True:
            outcome = yield action
            if outcome is None:
                action = self._hedge_or_wait() if self._running else self._send("retry")
                continue
            self._ended(outcome)
            if outcome.error is None:
                return outcome.answer
            if self._running:  # the other one may still answer
                action = Wait(None)
                continue
            action = self._again_after(outcome.error)

    def give_up_the_rest(self) -> None:
        for running in self._running.values():
            self._servers.end(running.url, Health.NOTHING)
            self._record(running, "cancelled")
        self._running = {}

    def _send(self, kind: AttemptKind) -> Action:
        remaining = self._call.remaining_s()
        if remaining <= 0:
            raise ServerTimeoutError(
                f"{self._what}: the {self._call.timeout_s:g} s of the call had passed before it could be sent; raise "
                f"timeout_s, or send fewer requests at a time"
            )
        url = self._servers.pick(avoid=self._tried)
        number = len(self._tried)
        self._tried.append(url)
        self._servers.begin(url)
        self._running[number] = _Running(url, kind, self._call.clock())
        return Send(number, url, remaining, self._hedge_delay(remaining))

    def _hedge_delay(self, remaining: float) -> float | None:
        delay = self._policy.hedge_after_s
        if delay is None or delay >= remaining or len(self._running) > 1:
            return None
        may_hedge = len(self._tried) < self._policy.max_attempts and self._servers.has_another(self._tried)
        return delay if may_hedge else None

    def _hedge_or_wait(self) -> Action:
        worth_it = self._call.remaining_s() > 0 and self._servers.has_another(self._tried)
        return self._send("hedge") if worth_it and self._budget.take() else Wait(None)

    def _again_after(self, error: ServerError | RequestError) -> Action:
        """The action that leads to another attempt; the error itself if there must be none."""
        elsewhere = self._servers.has_another(self._tried)
        if len(self._tried) >= self._policy.max_attempts or not is_worth_repeating(error, elsewhere=elsewhere):
            raise error
        limit = min(self._policy.max_backoff_s, self._policy.backoff_s * 2.0**self._num_retries)
        delay = 0.0 if elsewhere and not isinstance(error, ServerOverloadedError) else self._rng.uniform(0, limit)
        if delay >= self._call.remaining_s() or not self._budget.take():
            raise error
        self._num_retries += 1
        return Wait(delay) if delay > 0 else self._send("retry")

    def _ended(self, outcome: Outcome) -> None:
        running = self._running.pop(outcome.number)
        self._servers.end(running.url, health_of(outcome.error))
        self._record(running, "ok" if outcome.error is None else type(outcome.error).__name__)

    def _record(self, running: _Running, outcome: str) -> None:
        self._call.records.append(
            AttemptRecord(
                what=self._what,
                url=running.url,
                kind=running.kind,
                start_s=running.start - self._call.start,
                duration_s=self._call.clock() - running.start,
                outcome=outcome,
            )
        )


def is_worth_repeating(error: ServerError | RequestError, *, elsewhere: bool) -> bool:
    """Whether the same call may succeed a little later, or at another server if there is one."""
    if isinstance(error, RequestTooLargeError):
        return False
    if isinstance(error, ModelUnavailableError | ServerRefusedError):
        return elsewhere
    return isinstance(error, ServerUnavailableError | ServerOverloadedError)


def health_of(error: ServerError | RequestError | None) -> Health:
    """What an outcome says about its server; a refusal for overload is not an illness, nor is a wrong request."""
    if error is None:
        return Health.GOOD
    if isinstance(error, ModelUnavailableError | ServerRefusedError):
        return Health.GONE
    return Health.BAD if isinstance(error, ServerUnavailableError | ServerTimeoutError) else Health.NOTHING
