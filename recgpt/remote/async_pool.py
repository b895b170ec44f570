"""Calls to several servers from callers that await."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Any

from recgpt.asking import Ask, drive_async
from recgpt.errors import RecGPTError, RequestError, ServerError, ServerUnavailableError
from recgpt.remote.attempts import Attempting, Attempts, Call, Send
from recgpt.remote.network import Network, Outcome
from recgpt.remote.policy import CallPolicy
from recgpt.remote.pool import Check
from recgpt.remote.servers import Servers
from recgpt.remote.startup import refuse_to_start

_log = logging.getLogger(__name__)


class AsyncServerPool:
    """As ``ServerPool``, for one event loop; to be made in it.

    Args and errors: as there.
    """

    def __init__(
        self, urls: Sequence[str], network: Network, *, policy: CallPolicy, check: Check, timeout_s: float
    ) -> None:
        rng = random.Random()
        self._servers = Servers(urls, clock=time.monotonic, rng=rng)
        self._attempts = Attempts(policy, self._servers, rng)
        self._connections = {url: network.connect_async(url) for url in urls}
        self._check = check
        self._timeout_s = timeout_s
        self._closed = False
        self._prober: asyncio.Task[None] | None = None

    async def open(self, *, even_if_down: bool = False) -> None:
        """As ``ServerPool.open``."""
        urls = self._servers.urls
        refuse_to_start(urls, await asyncio.gather(*map(self._probe, urls)), even_if_down=even_if_down)
        self._probe_in_background()

    async def call(self, rpc: Ask[Any], call: Call) -> Any:
        """As ``ServerPool.call``."""
        if self._closed:
            raise ServerUnavailableError(
                f"{rpc}: the connection to {', '.join(self._servers.urls)} was closed; open a new one"
            )
        try:
            return await self._run(rpc, self._attempts.run(str(rpc), call))
        finally:
            self._probe_in_background()

    async def close(self) -> None:
        """Ends the connections; calling it twice is harmless."""
        self._closed = True
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait([self._prober])
        for connection in self._connections.values():
            await connection.close()

    async def _run(self, rpc: Ask[Any], attempts: Attempting) -> Any:
        running: set[asyncio.Task[Outcome]] = set()
        try:
            action = next(attempts)
            while True:
                if isinstance(action, Send):
                    if action.wait_s is None and not running:
                        action = attempts.send(await self._attempt(rpc, action))
                        continue
                    running.add(asyncio.create_task(self._attempt(rpc, action)))
                action = attempts.send(await _first(running, action.wait_s))
        except StopIteration as end:
            return end.value
        finally:
            attempts.close()
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    async def _attempt(self, rpc: Ask[Any], action: Send) -> Outcome:
        try:
            return Outcome(action.number, answer=await self._connections[action.url].call(rpc, action.timeout_s))
        except (ServerError, RequestError) as error:
            return Outcome(action.number, error=error)

    async def _probe(self, url: str) -> RecGPTError | None:
        connection = self._connections[url]
        try:
            await drive_async(self._check(url), lambda rpc: connection.call(rpc, self._timeout_s))
        except RecGPTError as error:
            self._servers.probed(url, ok=False)
            return error
        self._servers.probed(url, ok=True)
        return None

    def _probe_in_background(self) -> None:
        idle = self._prober is None or self._prober.done()
        if idle and not self._closed and self._servers.next_probe() is not None:
            self._prober = asyncio.create_task(self._probe_until_all_serve(), name="recgpt-probe")

    async def _probe_until_all_serve(self) -> None:
        while (due := self._servers.next_probe()) is not None:
            url, wait_s = due
            await asyncio.sleep(wait_s)
            error = await self._probe(url)
            _log.info("%s: %s", url, "serves again" if error is None else error)


async def _first(running: set[asyncio.Task[Outcome]], wait_s: float | None) -> Outcome | None:
    """The outcome of the task that ends first; None if none does in time, or after that time if none is running."""
    if not running:
        await asyncio.sleep(wait_s or 0)
        return None
    ended, _ = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    if not ended:
        return None
    task = ended.pop()
    running.discard(task)
    return task.result()
