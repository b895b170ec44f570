"""``RecallClient`` for asyncio: the same algorithm, options and answers, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recgpt.asking import Ask, drive_async
from recgpt.backends.asks import Search, TakeReserve
from recgpt.bundle import Bundle
from recgpt.client_core import ClientOptions, OnCall, Recording, addresses
from recgpt.client_layouts import ServedBundle, open_served
from recgpt.errors import BundleError, RecGPTError
from recgpt.live import check_follow
from recgpt.recall.index import ItemIndex
from recgpt.recall_by import RecallBy, recall_by_of
from recgpt.remote.async_pool import AsyncServerPool
from recgpt.remote.network import Network
from recgpt.remote.policy import CallPolicy, TlsOptions
from recgpt.types import Candidates, ItemId, RecallRequest, UserId

_log = logging.getLogger(__name__)

# Vectors times queries up to which going to a thread and back costs about what it spares the event loop.
_INLINE_SEARCH = 50_000


class _Opened:
    """One bundle and its connections, and how many calls run on it."""

    def __init__(self, served: ServedBundle, pool: AsyncServerPool) -> None:
        self.served = served
        self.pool = pool
        self.num_calls = 0
        self.is_replaced = False

    @contextlib.asynccontextmanager
    async def in_use(self) -> Any:
        self.num_calls += 1
        try:
            yield
        finally:
            self.num_calls -= 1
            await self.close_if_unused()

    async def close_if_unused(self) -> None:
        if self.is_replaced and self.num_calls == 0:
            await self.pool.close()


class AsyncRecallClient:
    """Recalls items with the interests computed by Triton servers, without blocking the event loop.

    To be used as ``async with``, in one event loop, by any number of tasks. A task that is cancelled cancels its calls
    on the server. Large searches of the item index run in a thread.

    Args:
        url: as of ``RecallClient``, like every other argument and error. Nothing is opened before ``async with``.

    Example:
        >>> async with AsyncRecallClient("localhost:8001", bundle="artifacts/bundle") as client:
        ...     (await client.recall(history=[12, 99, 7], user_id=3, k=10)).item_ids
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        bundle: str | Path,
        recall_by: RecallBy | str = RecallBy.CLIENT,
        timeout_s: float = 5.0,
        policy: CallPolicy | None = None,
        degrade: bool = False,
        tls: TlsOptions | None = None,
        num_threads: int | None = None,
        follow_s: float | None = None,
        on_call: OnCall | None = None,
        network: Network | None = None,
    ) -> None:
        check_follow(follow_s)
        self._options = ClientOptions(
            urls=addresses(url),
            recall_by=recall_by_of(recall_by),
            timeout_s=timeout_s,
            policy=policy or CallPolicy(),
            degrade=degrade,
            tls=tls,
            num_threads=num_threads,
            on_call=on_call,
            network=network,
        )
        self._carrier = self._options.carrier()
        self._path = Path(bundle)
        self._follow_s = follow_s
        self._opened: _Opened | None = None
        self._reloading = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None

    @property
    def bundle(self) -> Bundle:
        """What calls that begin now are answered from; BundleError before ``async with`` and after ``close``."""
        return self._current().served.bundle

    async def recall(
        self,
        history: Sequence[ItemId],
        *,
        user_id: UserId | None = None,
        segments: Sequence[int] | None = None,
        k: int = 10,
        quotas: Sequence[int] | None = None,
        merge: str = "quotas",
        filter_seen: bool = True,
        blocked: Collection[ItemId] = (),
        allowed: Collection[ItemId] | None = None,
    ) -> Candidates:
        """Recalls k items for one user; arguments and errors as in RecallRequest and ``recall_many``."""
        request = RecallRequest(
            history=history,
            user_id=user_id,
            segments=segments,
            k=k,
            quotas=quotas,
            merge=merge,
            filter_seen=filter_seen,
            blocked=blocked,
            allowed=allowed,
        )
        return (await self.recall_many([request]))[0]

    async def recall_many(self, requests: Iterable[RecallRequest]) -> list[Candidates]:
        """As ``Recaller.recall_many``, all requests from the bundle that is current when it is called."""
        listed, opened = list(requests), self._current()
        recording = Recording(self._options, len(listed))

        async def answer(ask: Ask[Any]) -> Any:
            match ask:
                case Search():
                    return await _search(opened.served.index, ask)
                case TakeReserve():
                    return recording.call.take_reserve()
                case _:
                    return await opened.pool.call(ask, recording.call)

        async with opened.in_use():
            try:
                candidates = await drive_async(opened.served.steps(listed, degrade=self._options.degrade), answer)
            except RecGPTError as error:
                recording.ended(error=error)
                raise
        recording.ended(candidates)
        return candidates

    async def reload(self) -> bool:
        """Takes over what is current in the store, if that changed; on an error the bundle stays that it has.

        Returns:
            Whether there was something new.

        Raises:
            BundleError: the new bundle is missing or damaged, or its parts do not belong together; or this was closed.
            ServerError: no server serves the new bundle's model.
        """
        async with self._reloading:
            before = self._current()
            now = await asyncio.to_thread(Bundle.open, self._path)
            if now.state == before.served.bundle.state:
                return False
            self._opened = await self._open(now, even_if_down=False)
            before.is_replaced = True
            await before.close_if_unused()
            return True

    async def close(self) -> None:
        """Ends the connections and stops following; calling it twice is harmless."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            await asyncio.wait([follower])
        async with self._reloading:
            opened, self._opened = self._opened, None
        if opened is not None:
            await opened.pool.close()

    async def __aenter__(self) -> Self:
        """Opens the bundle and checks the servers; errors as of ``RecallClient``."""
        bundle = await asyncio.to_thread(Bundle.open, self._path)
        self._opened = await self._open(bundle, even_if_down=self._options.degrade)
        if self._follow_s is not None:
            self._follower = asyncio.create_task(self._follow(self._follow_s), name="recgpt-follow")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _current(self) -> _Opened:
        if self._opened is None:
            raise BundleError(f"the client of {self._path} is not open; use it inside 'async with'")
        return self._opened

    async def _open(self, bundle: Bundle, *, even_if_down: bool) -> _Opened:
        options = self._options
        served = await asyncio.to_thread(open_served, bundle, options.recall_by, num_threads=options.num_threads)
        pool = AsyncServerPool(
            options.urls,
            self._carrier,
            policy=options.policy,
            check=served.check,
            timeout_s=options.timeout_s,
        )
        async with contextlib.AsyncExitStack() as on_failure:
            on_failure.push_async_callback(pool.close)
            await pool.open(even_if_down=even_if_down)
            on_failure.pop_all()
        return _Opened(served, pool)

    async def _follow(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.reload()
            except (RecGPTError, OSError) as error:
                version = self.bundle.manifest.version
                _log.warning("%s: recall goes on with version %s: %s", self._path, version, error)


async def _search(index: ItemIndex, ask: Search) -> Any:
    if len(ask.queries) * index.num_items <= _INLINE_SEARCH:
        return index.search(ask.queries, ask.k, ask.among, excluded=ask.excluded)
    return await asyncio.to_thread(index.search, ask.queries, ask.k, ask.among, excluded=ask.excluded)
