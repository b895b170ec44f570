"""What carries calls to servers: the contract of connections, real or pretended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from recgpt.errors import RequestError, ServerError


@dataclass(frozen=True, eq=False)
class Outcome:
    """How one attempt ended.

    Attributes:
        number: of the attempt, within its call.
        answer: None if it failed.
        error: None if it was answered.
    """

    number: int
    answer: Any = None
    error: ServerError | RequestError | None = None


class Connection(Protocol):
    """To one server, for callers that block. Safe to use from several threads."""

    def call(self, rpc: Any, timeout_s: float) -> Any:
        """The answer; ServerError or RequestError if there is none within the time."""

    def start(
        self, rpc: Any, timeout_s: float, done: Callable[[Any, ServerError | RequestError | None], None]
    ) -> Callable[[], None]:
        """Begins a call, tells ``done`` its answer or its error from any thread, and gives what cancels it."""

    def close(self) -> None:
        """Ends the connection; calling it twice is harmless."""


class AsyncConnection(Protocol):
    """To one server, for callers that await; used from one event loop."""

    async def call(self, rpc: Any, timeout_s: float) -> Any:
        """As ``Connection.call``; cancelling the task cancels the call."""

    async def close(self) -> None:
        """Ends the connection; calling it twice is harmless."""


class Network(Protocol):
    """Makes connections; nothing is sent before the first call."""

    def connect(self, url: str) -> Connection:
        """For callers that block; ConfigError if the address cannot be one."""

    def connect_async(self, url: str) -> AsyncConnection:
        """For callers that await; to be called in their event loop."""
