"""Threads that take turns in Python, so that one prepares its work while another one's runs in a library.

The interpreter alone does not see to that: each time numpy lets go of it for a moment it goes to another thread, and
all of them are ready late instead of one after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

_of_thread = threading.local()


class Turn:
    """Held by one thread at a time: ``with turn:`` around its work, which it gives up for each call of ``outside``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()
        _of_thread.lock = self._lock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _of_thread.lock = None
        self._lock.release()


def outside(call: Callable[..., T], *args: Any) -> T:
    """``call(*args)``, a function that needs the interpreter for a small part of its time only."""
    lock = getattr(_of_thread, "lock", None)
    if lock is None:
        return call(*args)
    _of_thread.lock = None
    lock.release()
    try:
        return call(*args)
    finally:
        lock.acquire()
        _of_thread.lock = lock
