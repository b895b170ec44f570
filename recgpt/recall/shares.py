"""The requests of one call, shared out to threads that answer them side by side.

The operators of a small graph are many and short, so that more threads inside its runs gain little. A share needs
nothing of another one but its turn in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

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

    def answer(self, requests: Sequence[Request], answer: Callable[[Sequence[Request]], list[Answer]]) -> list[Answer]:
        """What ``answer`` gives for all requests, in their order; what it raises for any share."""
        number = min(self._num_threads, len(requests) // self._least)
        if number < 2:
            return answer(requests)
        turn = Turn()

        def answer_share(first: int) -> list[Answer]:
            with turn:
                return answer(requests[first::number])

        others = [self._others.submit(answer_share, first) for first in range(1, number)]
        answers = cast(list[Answer], [None] * len(requests))
        try:
            answers[::number] = answer_share(0)
            for first, other in enumerate(others, start=1):
                answers[first::number] = answer_share(first) if other.cancel() else other.result()
        finally:
            for other in others:
                other.cancel()
        return answers


def check_num_threads(num_threads: int | None) -> None:
    """ConfigError unless it is None or a number of threads."""
    if num_threads is not None and num_threads < 1:
        raise ConfigError(f"num_threads = {num_threads}: expected at least 1, or None")
