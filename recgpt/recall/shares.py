"""The requests of one call, shared out to threads that answer them side by side.

The operators of a small graph are many and short, so that more threads inside its runs gain little. A share needs
nothing of another one but its turn in Python.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import itemgetter
from typing import TypeVar

from recgpt.errors import ConfigError
from recgpt.turns import Turn

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Shares:
    """Safe to call from several threads: what no other thread is free for is done by the calling one.

    The other threads begin when they are needed and end with this object.

    Args:
        num_threads: of one call, the calling one among them; at least 1.
        least: how many requests a share has at least.
    """

    def __init__(self, num_threads: int, least: int) -> None:
        self._num_threads = num_threads
        self._least = least
        self._others = ThreadPoolExecutor(max(1, num_threads - 1), thread_name_prefix="recgpt-share")

    def answer(
        self,
        requests: Sequence[Request],
        answer: Callable[[Sequence[Request]], list[Answer]],
        weight: Callable[[Request], int],
    ) -> list[Answer]:
        """What ``answer`` gives for all requests, in their order; what it raises for any share.

        Args:
            requests: of one call.
            answer: answers some of them.
            weight: what a request's work grows with. Those of like weight are in one share; the calling thread, which
                has the first turn, takes the heaviest.
        """
        number = min(self._num_threads, len(requests) // self._least)
        if number < 2:
            return answer(requests)
        places = sorted(range(len(requests)), key=lambda place: weight(requests[place]), reverse=True)
        ends = [len(places) * share // number for share in range(number + 1)]
        first, *further = ([requests[place] for place in places[start:end]] for start, end in itertools.pairwise(ends))
        turn = Turn()

        def answer_share(share: Sequence[Request]) -> list[Answer]:
            with turn:
                return answer(share)

        others: list[Future[list[Answer]]] = []
        try:
            with turn:
                others += [self._others.submit(answer_share, share) for share in further]
                found = answer(first)
            for share, other in zip(further, others, strict=True):
                found += answer_share(share) if other.cancel() else other.result()
        finally:
            for other in others:
                other.cancel()
        return [one for _, one in sorted(zip(places, found, strict=True), key=itemgetter(0))]


def check_num_threads(num_threads: int | None) -> None:
    """ConfigError unless it is None or a number of threads."""
    if num_threads is not None and num_threads < 1:
        raise ConfigError(f"num_threads = {num_threads}: expected at least 1, or None")
