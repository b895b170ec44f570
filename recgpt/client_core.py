"""What the blocking and the awaiting client share: options, and the report of a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recgpt.backends.triton_network import TritonNetwork
from recgpt.errors import ConfigError, RecGPTError
from recgpt.recall_by import RecallBy
from recgpt.remote.attempts import AttemptRecord, Call
from recgpt.remote.network import Network
from recgpt.remote.policy import CallPolicy, TlsOptions
from recgpt.types import Candidates


@dataclass(frozen=True, kw_only=True, eq=False)
class CallReport:
    """One ``recall_many``, as the hook ``on_call`` is told of it when it has ended.

    Attributes:
        started_ns: when, in nanoseconds since 1970.
        duration_s: all of it.
        num_requests: that were asked for.
        candidates: the answers, with their stage timings and rungs; empty if it failed.
        attempts: each sending to a server, in the order in which they ended.
        error: None if it was answered.
        recall_by: who turned interests into items.
    """

    started_ns: int
    duration_s: float
    num_requests: int
    candidates: Sequence[Candidates]
    attempts: Sequence[AttemptRecord]
    error: RecGPTError | None
    recall_by: RecallBy = RecallBy.CLIENT


OnCall = Callable[[CallReport], None]


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Of a client; see ``RecallClient``, which documents each.

    Raises:
        ConfigError: a value is out of range, or two exclude each other.
    """

    urls: tuple[str, ...]
    recall_by: RecallBy
    timeout_s: float
    policy: CallPolicy
    degrade: bool
    tls: TlsOptions | None
    num_threads: int | None
    on_call: OnCall | None
    network: Network | None

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s = {self.timeout_s}: expected seconds above 0")
        if self.tls is not None and self.network is not None:
            raise ConfigError("tls and network were given; expected one: a network of your own does without tls")
        if self.num_threads is not None and self.recall_by is not RecallBy.CLIENT:
            raise ConfigError(
                f"num_threads = {self.num_threads} with recall_by = {str(self.recall_by)!r}: expected None, since "
                "nothing is searched here"
            )

    def carrier(self) -> Network:
        """What carries the calls."""
        return self.network if self.network is not None else TritonNetwork(tls=self.tls)


def addresses(url: str | Sequence[str]) -> tuple[str, ...]:
    """One address or several, as several."""
    return (url,) if isinstance(url, str) else tuple(url)


class Recording:
    """One ``recall_many`` under way: its time, its attempts, and at its end the report.

    Args:
        options: of the client.
        num_requests: that are asked for.
    """

    def __init__(self, options: ClientOptions, num_requests: int) -> None:
        self.call = Call(options.timeout_s, time.monotonic, reserve=options.degrade)
        self._options = options
        self._num_requests = num_requests
        self._started_ns = time.time_ns()

    def ended(self, candidates: Sequence[Candidates] = (), error: RecGPTError | None = None) -> None:
        """Tells the hook, if there is one."""
        if self._options.on_call is None:
            return
        self._options.on_call(
            CallReport(
                started_ns=self._started_ns,
                duration_s=self.call.clock() - self.call.start,
                num_requests=self._num_requests,
                candidates=candidates,
                attempts=tuple(self.call.records),
                error=error,
                recall_by=self._options.recall_by,
            )
        )
