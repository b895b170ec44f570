"""Algorithms that ask for what they need: generators that yield a question and are sent its answer.

So one algorithm serves callers that block and callers that await: it knows neither. What answers the questions is given
by whoever drives it. A question that fails is thrown into the algorithm, which may have another way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

from recgpt.errors import RecGPTError

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


class Ask(Generic[T]):
    """A question whose answer is a ``T``; in an algorithm: ``answer = yield from Question(...)``."""

    def __iter__(self) -> Generator[Ask[T], Any, T]:
        """Asks, and gives the answer."""
        answer: T = yield self
        return answer


Steps = Generator[Ask[Any], Any, T]
"""An algorithm that asks, and returns a ``T``."""


def drive(steps: Generator[A, Any, T], answer: Callable[[A], Any]) -> T:
    """Runs an algorithm to its end; errors of this package that an answer gives go through it."""
    try:
        ask = next(steps)
        while True:
            try:
                reply = answer(ask)
            except RecGPTError as error:
                ask = steps.throw(error)
            else:
                ask = steps.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()


async def drive_async(steps: Generator[A, Any, T], answer: Callable[[A], Awaitable[Any]]) -> T:
    """The same where answers are awaited."""
    try:
        ask = next(steps)
        while True:
            try:
                reply = await answer(ask)
            except RecGPTError as error:
                ask = steps.throw(error)
            else:
                ask = steps.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()


def lowered(steps: Generator[A, Any, T], lower: Callable[[A], Generator[B, Any, Any]]) -> Generator[B, Any, T]:
    """An algorithm in which each question became an algorithm of its own, which asks for simpler things."""
    try:
        ask = next(steps)
        while True:
            try:
                reply = yield from lower(ask)
            except RecGPTError as error:
                ask = steps.throw(error)
            else:
                ask = steps.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()
