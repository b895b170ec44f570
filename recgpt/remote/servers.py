"""Which server gets the next call: least outstanding of two, failing ones left out until they answer again. No I/O."""

from __future__ import annotations

import enum
import random
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from recgpt.errors import ConfigError, ServerUnavailableError

_FAILURES_TO_EJECT = 3
_FIRST_PROBE_S = 0.25
_LAST_PROBE_S = 8.0


class Health(enum.Enum):
    """What the end of a call says about its server."""

    GOOD = enum.auto()
    BAD = enum.auto()  # one may be chance
    GONE = enum.auto()  # cannot serve, by its own words
    NOTHING = enum.auto()


@dataclass
class _Server:
    url: str
    is_checked: bool = False  # it once answered as the bundle's model does
    outstanding: int = 0
    failures: int = 0  # in a row
    num_probes: int = 0  # in vain, since it was left out
    probe_at: float | None = None  # None while it gets calls


class Servers:
    """The servers of one client. Safe to use from several threads.

    A server is left out after three failures in a row, or at once when it says that it cannot serve; it is probed with
    growing intervals and comes back when a probe succeeds. If all are left out, those that were once checked are used
    all the same: an answer is likelier from there than from nowhere.

    Args:
        urls: ``host:port`` of each.
        clock: seconds, monotonic.
        rng: for the choice.

    Raises:
        ConfigError: no address, or one twice.
    """

    def __init__(self, urls: Sequence[str], *, clock: Callable[[], float], rng: random.Random) -> None:
        if not urls or len(set(urls)) != len(urls):
            raise ConfigError(f"servers {list(urls)}: expected at least one address, each once")
        self._servers = {url: _Server(url) for url in urls}
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()

    @property
    def urls(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._servers)

    def pick(self, *, avoid: Collection[str] = ()) -> str:
        """The server for the next attempt; of those to avoid only if there is no other.

        Raises:
            ServerUnavailableError: none was ever checked.
        """
        with self._lock:
            checked = [server for server in self._servers.values() if server.is_checked]
            serving = [server for server in checked if server.probe_at is None]
            fresh = [server for server in serving if server.url not in avoid]
            candidates = fresh or serving or [server for server in checked if server.url not in avoid] or checked
            if not candidates:
                raise ServerUnavailableError(
                    f"none of the servers {', '.join(self._servers)} has answered yet; see the log for why"
                )
            two = self._rng.sample(candidates, min(2, len(candidates)))
            return min(two, key=lambda server: server.outstanding).url

    def has_another(self, tried: Collection[str]) -> bool:
        """Whether a server that was not tried gets calls."""
        with self._lock:
            return any(
                server.is_checked and server.probe_at is None and server.url not in tried
                for server in self._servers.values()
            )

    def begin(self, url: str) -> None:
        """An attempt is sent there."""
        with self._lock:
            self._servers[url].outstanding += 1

    def end(self, url: str, health: Health) -> None:
        """An attempt there has ended."""
        with self._lock:
            server = self._servers[url]
            server.outstanding -= 1
            if health is Health.GOOD:
                self._restore(server)
            elif health is Health.GONE:
                self._eject(server)
            elif health is Health.BAD:
                server.failures += 1
                if server.failures >= _FAILURES_TO_EJECT:
                    self._eject(server)

    def probed(self, url: str, *, ok: bool) -> None:
        """A probe has ended: whether the server answered as the bundle's model does."""
        with self._lock:
            server = self._servers[url]
            if ok:
                server.is_checked = True
                self._restore(server)
            else:
                self._eject(server)
                server.num_probes += 1
                server.probe_at = self._clock() + min(_LAST_PROBE_S, _FIRST_PROBE_S * 2.0**server.num_probes)

    def next_probe(self) -> tuple[str, float] | None:
        """Which left-out server is to be probed next, and in how many seconds; None if there is none."""
        with self._lock:
            waiting = [
                (server.probe_at, server.url) for server in self._servers.values() if server.probe_at is not None
            ]
            if not waiting:
                return None
            at, url = min(waiting)
            return url, max(0.0, at - self._clock())

    def _eject(self, server: _Server) -> None:
        if server.probe_at is None:
            server.num_probes = 0
            server.probe_at = self._clock() + _FIRST_PROBE_S

    def _restore(self, server: _Server) -> None:
        server.failures = 0
        server.probe_at = None
