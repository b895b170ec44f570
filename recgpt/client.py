"""Recall with the model on Triton servers, the item index here or there: same methods, same answers as the engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recgpt.asking import Ask, drive
from recgpt.backends.asks import Search, TakeReserve
from recgpt.backends.graph_backend import GraphBackend
from recgpt.backends.tensors import NamedArrays
from recgpt.bundle import Bundle
from recgpt.client_core import ClientOptions, OnCall, Recording, addresses
from recgpt.client_layouts import ServedBundle, open_served
from recgpt.errors import RecGPTError
from recgpt.live import LiveRecaller
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.index import ItemIndex
from recgpt.recall.recaller import Recaller
from recgpt.recall_by import RecallBy, recall_by_of
from recgpt.remote.attempts import Call
from recgpt.remote.network import Network
from recgpt.remote.policy import CallPolicy, TlsOptions
from recgpt.remote.pool import ServerPool
from recgpt.signature import GraphSpec
from recgpt.types import Candidates, RecallRequest


class RecallClient(LiveRecaller):
    """Recalls items with the interests computed by Triton servers.

    The item index is searched in this process, on a GPU if there is one, unless ``recall_by`` leaves that to the
    servers. Requests are pinned to the version of the models that the bundle was exported with, and a server gets calls
    only after it has answered the bundle's test request as the exported model did, so parts of different exports are
    never combined.

    Safe to call from several threads. Docs: ``docs/client.md``.

    Args:
        url: ``host:port`` of the server's gRPC endpoint, or of several servers of the same models.
        bundle: folder that ``export/to_onnx.py`` wrote, or a store that ``recgpt bundle publish`` keeps; only manifest,
            ids, popularity and examples are needed here, and the index if it is searched here.
        recall_by: who turns interests into items: ``client``, with the index here; ``graph``, the servers' ``recall_J``
            in one request, for merges by quotas without allowed sets; ``engine``, their ``recall_engine``, also in one
            request, for all that the client can do. The latter two need no Faiss, and have no ``index``.
        timeout_s: deadline of one ``recall`` or ``recall_many``, for all its calls to servers together.
        policy: retries, and hedging where it is wanted.
        degrade: rather answer with less than raise a ServerError: from fewer interests, or with popular items; the
            answer's ``degraded`` says which. Off, every failure is an error.
        tls: encrypts the connections; None sends in the clear.
        num_threads: of one search with many queries; None leaves it to Faiss. Only where it is searched here.
        follow_s: how often to look for a newer bundle in the store; None leaves it to ``reload``.
        on_call: told of each ``recall_many`` when it has ended, in the thread of the caller.
        network: what carries the calls instead of gRPC, as ``recgpt.testing.FakeNetwork`` does.

    Raises:
        BundleError: the bundle is missing or damaged, or cannot be recalled from in this way, or a server's model is
            not this bundle's.
        ConfigError: an option is out of range.
        ServerUnavailableError: no server answers, and ``degrade`` is off.
        ModelUnavailableError: no server serves this bundle's version of the models.

    Example:
        >>> with RecallClient("localhost:8001", bundle="artifacts/bundle") as client:
        ...     client.recall(history=[12, 99, 7], user_id=3, k=10).item_ids
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
        options = ClientOptions(
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
        carrier = options.carrier()
        started = False

        def open_bundle(opened: Bundle) -> Recaller:
            nonlocal started
            # A service may start while its servers are away, but not change to a bundle that no server has.
            served = open_served(opened, options.recall_by, num_threads=num_threads)
            recaller = _ServedRecaller(served, options, carrier)
            recaller.open(even_if_down=degrade and not started)
            started = True
            return recaller

        super().__init__(bundle, open_bundle, follow_s=follow_s)


class _ServedRecaller(Recaller):
    """Recalls from one bundle; one deadline for all that a ``recall_many`` asks."""

    def __init__(self, served: ServedBundle, options: ClientOptions, carrier: Network) -> None:
        # Not Recaller's: the algorithm is the served bundle's, which may have no index.
        pool = ServerPool(
            options.urls,
            carrier,
            policy=options.policy,
            check=served.check,
            timeout_s=options.timeout_s,
        )
        self._pool = pool
        self._backend = _PooledBackend(served, pool, options.timeout_s)
        self._served = served
        self._options = options

    @property
    def index(self) -> ItemIndex:
        return self._served.index

    @property
    def catalogue(self) -> Catalogue:
        return self._served.catalogue

    @property
    def prompt_tuned(self) -> bool:
        return self._served.prompt_tuned

    def open(self, *, even_if_down: bool) -> None:
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._pool.close)
            self._pool.open(even_if_down=even_if_down)
            on_failure.pop_all()

    def recall_many(self, requests: Iterable[RecallRequest]) -> list[Candidates]:
        listed = list(requests)
        recording = Recording(self._options, len(listed))

        def answer(ask: Ask[Any]) -> Any:
            match ask:
                case Search(queries, k, among, excluded):
                    return self.index.search(queries, k, among, excluded=excluded)
                case TakeReserve():
                    return recording.call.take_reserve()
                case _:
                    return self._pool.call(ask, recording.call)

        try:
            candidates = drive(self._served.steps(listed, degrade=self._options.degrade), answer)
        except RecGPTError as error:
            recording.ended(error=error)
            raise
        recording.ended(candidates)
        return candidates


class _PooledBackend(GraphBackend):
    """The servers as a backend, each question with a deadline of its own."""

    def __init__(self, served: ServedBundle, pool: ServerPool, timeout_s: float) -> None:
        super().__init__(served.model.spec, served.model.fused)
        self._served = served
        self._pool = pool
        self._timeout_s = timeout_s

    def close(self) -> None:
        self._pool.close()

    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        call = Call(self._timeout_s, time.monotonic)
        return drive(self._served.model.run(graph, feeds), lambda rpc: self._pool.call(rpc, call))
