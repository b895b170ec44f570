"""Calls to several servers from callers that block."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from recgpt.asking import Ask, drive
from recgpt.errors import RecGPTError, RequestError, ServerError, ServerUnavailableError
from recgpt.remote.attempts import Attempting, Attempts, Call, Send
from recgpt.remote.network import Network, Outcome
from recgpt.remote.policy import CallPolicy
from recgpt.remote.servers import Servers
from recgpt.remote.startup import refuse_to_start

_log = logging.getLogger(__name__)

Check = Callable[[str], Generator[Ask[Any], Any, None]]
"""Of an address: the calls by which its server is known to serve what is needed; an error if it does not."""


class ServerPool:
    """Connections to servers, with deadline, retries, hedging and balance. Safe to use from several threads.

    Args:
        urls: ``host:port`` of each server.
        network: what carries the calls.
        policy: retries and hedging.
        check: by which a server is known before it gets calls, and when it comes back.
        timeout_s: of each call of a check.

    Raises:
        ConfigError: an address cannot be one, or is there twice.
    """

    def __init__(
        self, urls: Sequence[str], network: Network, *, policy: CallPolicy, check: Check, timeout_s: float
    ) -> None:
        rng = random.Random()
        self._servers = Servers(urls, clock=time.monotonic, rng=rng)
        self._attempts = Attempts(policy, self._servers, rng)
        self._connections = {url: network.connect(url) for url in urls}
        self._check = check
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._probing = threading.Lock()

    def open(self, *, even_if_down: bool = False) -> None:
        """Checks every server; those that do not answer are left out, and probed in the background.

        Args:
            even_if_down: whether no server need answer.

        Raises:
            BundleMismatchError: a server answers as another model.
            ServerError: no server is of use; the first one's error.
        """
        urls = self._servers.urls
        if len(urls) == 1:
            errors = [self._probe(urls[0])]
        else:
            with ThreadPoolExecutor(len(urls)) as threads:
                errors = list(threads.map(self._probe, urls))
        refuse_to_start(urls, errors, even_if_down=even_if_down)
        self._probe_in_background()

    def call(self, rpc: Ask[Any], call: Call) -> Any:
        """One call, answered by whichever server does.

        Raises:
            ServerError: none did, within the call's time and the policy.
            RequestError: the request is at fault.
        """
        if self._closed.is_set():
            raise ServerUnavailableError(
                f"{rpc}: the connection to {', '.join(self._servers.urls)} was closed; open a new one"
            )
        try:
            return _Driver(self._connections, self._closed).run(rpc, self._attempts.run(str(rpc), call))
        finally:
            self._probe_in_background()

    def close(self) -> None:
        """Ends the connections; calling it twice is harmless."""
        self._closed.set()
        for connection in self._connections.values():
            connection.close()

    def _probe(self, url: str) -> RecGPTError | None:
        connection = self._connections[url]
        try:
            drive(self._check(url), lambda rpc: connection.call(rpc, self._timeout_s))
        except RecGPTError as error:
            self._servers.probed(url, ok=False)
            return error
        self._servers.probed(url, ok=True)
        return None

    def _probe_in_background(self) -> None:
        if self._servers.next_probe() is not None and self._probing.acquire(blocking=False):
            threading.Thread(target=self._probe_until_all_serve, name="recgpt-probe", daemon=True).start()

    def _probe_until_all_serve(self) -> None:
        try:
            while (due := self._servers.next_probe()) is not None:
                url, wait_s = due
                if self._closed.wait(wait_s):
                    return
                error = self._probe(url)
                if not self._closed.is_set():
                    _log.info("%s: %s", url, "serves again" if error is None else error)
        finally:
            self._probing.release()


class _Driver:
    """Carries out the actions of one call."""

    def __init__(self, connections: Any, closed: threading.Event) -> None:
        self._connections = connections
        self._closed = closed
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._cancels: dict[int, Callable[[], None]] = {}

    def run(self, rpc: Ask[Any], attempts: Attempting) -> Any:
        try:
            action = next(attempts)
            while True:
                if isinstance(action, Send) and action.wait_s is None and not self._cancels:
                    outcome: Outcome | None = self._call(rpc, action)
                else:
                    if isinstance(action, Send):
                        self._start(rpc, action)
                    outcome = self._wait(action.wait_s)
                action = attempts.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            attempts.close()
            for cancel in self._cancels.values():
                cancel()

    def _call(self, rpc: Ask[Any], action: Send) -> Outcome:
        try:
            return Outcome(action.number, answer=self._connections[action.url].call(rpc, action.timeout_s))
        except (ServerError, RequestError) as error:
            return Outcome(action.number, error=error)

    def _start(self, rpc: Ask[Any], action: Send) -> None:
        def done(answer: Any, error: ServerError | RequestError | None) -> None:
            self._outcomes.put(Outcome(action.number, answer, error))

        self._cancels[action.number] = self._connections[action.url].start(rpc, action.timeout_s, done)

    def _wait(self, wait_s: float | None) -> Outcome | None:
        if not self._cancels:
            self._closed.wait(wait_s)
            return None
        try:
            outcome = self._outcomes.get(timeout=wait_s)
        except queue.Empty:
            return None
        del self._cancels[outcome.number]
        return outcome
