"""Requests that LoadGen makes due, answered by an awaiting client in this process; what became of each one.

One event loop answers all; LoadGen waits for its clock in a thread that holds no lock while it does.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from recgpt.bench.loadgen import Answered, Due, complete, run_offline, run_server
from recgpt.errors import RecGPTError
from recgpt.types import Candidates, RecallRequest

AsyncRecall = Callable[[Sequence[RecallRequest]], Awaitable[list[Candidates]]]

# More requests than arrive in this time wait only where the bound was missed long ago.
_MAX_WAITING_S = 1.0
_LEAST_WAITING = 64


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as the client saw it.

    Attributes:
        place: of the request.
        wait_ns: from when LoadGen issued it until the event loop came to it.
        recall_ns: the client's call.
        answer: None if it failed, or if nothing is recalled.
        error: what it failed with.
    """

    place: int
    wait_ns: int
    recall_ns: int
    answer: Candidates | None
    error: RecGPTError | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of LoadGen: the two accounts of each request, both in the order in which they were due."""

    answered: Sequence[Answered]
    asked: Sequence[Asked]


async def serve(
    recall: AsyncRecall, requests: Sequence[RecallRequest], *, rate: float, duration_s: float, seed: int
) -> Run:
    """The Server scenario: single requests by Poisson arrivals, ``rate`` a second."""
    sender = _Sender(recall, requests, batch=1, num_under_way=None)
    max_waiting = max(_LEAST_WAITING, math.ceil(rate * _MAX_WAITING_S))
    run = partial(
        run_server,
        num_requests=len(requests),
        rate=rate,
        duration_s=duration_s,
        seed=seed,
        max_waiting=max_waiting,
    )
    return await sender.run(run)


async def offline(
    recall: AsyncRecall,
    requests: Sequence[RecallRequest],
    *,
    num_samples: int,
    batch: int,
    num_under_way: int,
    seed: int,
) -> Run:
    """The Offline scenario: all at once, sent in batches, a few of them under way at a time."""
    sender = _Sender(recall, requests, batch=batch, num_under_way=num_under_way)
    return await sender.run(partial(run_offline, num_requests=len(requests), num_samples=num_samples, seed=seed))


class _Sender:
    """Sends what is due; one object a run, made in the event loop."""

    def __init__(
        self, recall: AsyncRecall, requests: Sequence[RecallRequest], *, batch: int, num_under_way: int | None
    ) -> None:
        self._recall = recall
        self._requests = requests
        self._batch = batch
        self._room = asyncio.Semaphore(num_under_way) if num_under_way is not None else None
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[int, Asked] = {}
        self._num_due = 0

    async def run(self, scenario: Callable[[Callable[[Sequence[Due]], None]], list[Answered]]) -> Run:
        with _no_collection():
            answered = await asyncio.to_thread(scenario, self._issue)
        if self._tasks:
            await asyncio.wait(self._tasks)
        return Run(answered=answered, asked=[self._asked[number] for number in sorted(self._asked)])

    def _issue(self, due: Sequence[Due]) -> None:
        self._loop.call_soon_threadsafe(self._begin, due, time.perf_counter_ns())

    def _begin(self, due: Sequence[Due], issued_ns: int) -> None:
        for start in range(0, len(due), self._batch):
            part = due[start : start + self._batch]
            task = self._loop.create_task(self._answer(part, self._num_due, issued_ns))
            self._num_due += len(part)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, due: Sequence[Due], first: int, issued_ns: int) -> None:
        if self._room is not None:
            await self._room.acquire()
        answers: Sequence[Candidates | None] = [None] * len(due)
        error = None
        started = time.perf_counter_ns()
        try:
            answers = await self._recall([self._requests[place] for _, place in due]) or answers
        except RecGPTError as failure:
            error = failure
        ended = time.perf_counter_ns()
        complete([sample for sample, _ in due])
        if self._room is not None:
            self._room.release()
        for number, ((_, place), answer) in enumerate(zip(due, answers, strict=True), start=first):
            self._asked[number] = Asked(
                place=place, wait_ns=started - issued_ns, recall_ns=ended - started, answer=answer, error=error
            )


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python from looking for cycles, which takes tens of milliseconds among many objects; answers hold none."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
