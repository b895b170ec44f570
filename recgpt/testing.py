"""Pretended servers for tests of what calls a client: real answers, faults at will, no network.

Example:
    >>> server = FakeServer("artifacts/bundle")
    >>> with RecallClient("a:1", bundle="artifacts/bundle", network=FakeNetwork({"a:1": server})) as client:
    ...     server.is_down = True
    ...     client.recall([12, 99, 7])
    Traceback (most recent call last):
    recgpt.errors.ServerUnavailableError: ...
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.backends.tensors import NamedArrays
from recgpt.backends.triton_rpc import Infer, MaxBatchSize, ModelReady, ReadyModels, Rpc, ServerReady
from recgpt.bundle import Bundle
from recgpt.engine import Engine
from recgpt.errors import (
    ConfigError,
    ModelUnavailableError,
    RecGPTError,
    RequestError,
    ServerError,
    ServerTimeoutError,
    ServerUnavailableError,
)
from recgpt.one_hop.answering import answer_all
from recgpt.one_hop.engine_codec import MODEL, EngineCodec
from recgpt.one_hop.remote import marked
from recgpt.serving.engine_files import EngineFiles
from recgpt.signature import DECODE, PREFILL, QUOTAS, GraphSpec

MAX_BATCH_SIZE = 256


class FakeServer:
    """Answers as a server of a bundle's models would, in this process. Safe to use from several threads.

    Args:
        bundle: folder of the bundle; its graphs run in ONNX Runtime, those that recall and the engine of
            ``recall_engine`` once they are asked.

    Attributes:
        is_down: whether every call fails as if nobody listened.
        delay_s: how long every inference takes.
        calls: what was asked, one ``str`` a call; ``model prefill version 1`` is an inference.
        num_cancelled: calls that their caller gave up.

    Raises:
        BundleError: there is no such bundle.
    """

    def __init__(self, bundle: str | Path) -> None:
        opened = Bundle.open(bundle)
        manifest, graphs = opened.manifest, opened.graphs()
        # Every backend wants prefill and decode.
        needed = {name: graphs[name] for name in (PREFILL.name, DECODE.name)}
        self._recall_graphs = {**needed, **opened.recall_graphs()}
        self._served = {(name, str(manifest.model_version)) for name in (*graphs, *self._recall_graphs)}
        if EngineFiles.of(opened) is not None:
            self._served.add((MODEL, str(manifest.version)))
        self._bundle = opened
        self._backend = OnnxRuntimeBackend(graphs, manifest.model, num_threads=1)
        self._errors: deque[ServerError | RequestError] = deque()
        self._lock = threading.Lock()
        self.is_down = False
        self.delay_s = 0.0
        self.calls: list[str] = []
        self.num_cancelled = 0

    @property
    def num_inferences(self) -> int:
        """How many of the calls ran a graph."""
        return sum(call.startswith("model ") for call in self.calls)

    def fail_next(self, *errors: ServerError | RequestError) -> None:
        """The next inferences fail with these, one each, before any is answered again."""
        with self._lock:
            self._errors.extend(errors)

    def begin(self, rpc: Rpc) -> float:
        """Notes a call; how many seconds its answer takes. Raises what it fails with."""
        with self._lock:
            self.calls.append(str(rpc))
            if self.is_down:
                raise ServerUnavailableError(f"{rpc}: the pretended server is down")
            if not isinstance(rpc, Infer):
                return 0.0
            if self._errors:
                raise self._errors.popleft()
            return self.delay_s

    def cancelled(self) -> None:
        """Notes that a caller gave up."""
        with self._lock:
            self.num_cancelled += 1

    def answer(self, rpc: Rpc) -> Any:
        """What a server answers."""
        match rpc:
            case Infer(graph, version, feeds):
                if (graph.name, version) not in self._served:
                    raise ModelUnavailableError(f"{rpc}: the pretended server does not have it")
                return self._run(graph, feeds)
            case ModelReady(name, version):
                return (name, version) in self._served
            case ServerReady():
                return True
            case MaxBatchSize():
                return MAX_BATCH_SIZE
            case ReadyModels():
                return sorted(self._served)
            case _:
                raise ServerError(f"{rpc}: a pretended server does not do that")

    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        if graph.name == MODEL:
            return self._engine(feeds)
        backend = self._recalling if QUOTAS in feeds else self._backend
        return backend.run(graph, feeds)

    @functools.cached_property
    def _recalling(self) -> OnnxRuntimeBackend:
        return OnnxRuntimeBackend(self._recall_graphs, self._bundle.manifest.model, num_threads=1)

    @functools.cached_property
    def _engine(self) -> Callable[[NamedArrays], NamedArrays]:
        engine = Engine.load(self._bundle.path, num_threads=1)
        codec = EngineCodec.of(engine.catalogue)

        def run(feeds: NamedArrays) -> NamedArrays:
            [result] = answer_all(engine, codec, [feeds])
            if isinstance(result, RequestError):
                raise RequestError(marked(result))
            if isinstance(result, RecGPTError):
                raise ServerError(str(result))
            return result

        return run


class FakeNetwork:
    """Connects to pretended servers.

    Args:
        servers: by address, each as clients name it.
    """

    def __init__(self, servers: Mapping[str, FakeServer]) -> None:
        self._servers = dict(servers)

    def connect(self, url: str) -> _FakeConnection:
        """See ``recgpt.remote.network.Network``."""
        return _FakeConnection(self._server(url))

    def connect_async(self, url: str) -> _AsyncFakeConnection:
        """See ``recgpt.remote.network.Network``."""
        return _AsyncFakeConnection(self._server(url))

    def _server(self, url: str) -> FakeServer:
        if url not in self._servers:
            raise ConfigError(f"url {url!r}: expected one of the pretended {sorted(self._servers)}")
        return self._servers[url]


class _FakeConnection:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def call(self, rpc: Rpc, timeout_s: float) -> Any:
        return self._after_delay(rpc, timeout_s, threading.Event())

    def start(
        self, rpc: Rpc, timeout_s: float, done: Callable[[Any, ServerError | RequestError | None], None]
    ) -> Callable[[], None]:
        given_up = threading.Event()

        def run() -> None:
            try:
                answer = self._after_delay(rpc, timeout_s, given_up)
            except (ServerError, RequestError) as error:
                done(None, error)
            else:
                done(answer, None)

        threading.Thread(target=run, name="recgpt-fake-call", daemon=True).start()
        return given_up.set

    def close(self) -> None:
        pass

    def _after_delay(self, rpc: Rpc, timeout_s: float, given_up: threading.Event) -> Any:
        delay_s = self._server.begin(rpc)
        if given_up.wait(min(delay_s, timeout_s)):
            self._server.cancelled()
            raise ServerUnavailableError(f"{rpc}: cancelled")
        if delay_s > timeout_s:
            raise _too_late(rpc, timeout_s)
        return self._server.answer(rpc)


class _AsyncFakeConnection:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    async def call(self, rpc: Rpc, timeout_s: float) -> Any:
        delay_s = self._server.begin(rpc)
        try:
            await asyncio.sleep(min(delay_s, timeout_s))
        except asyncio.CancelledError:
            self._server.cancelled()
            raise
        if delay_s > timeout_s:
            raise _too_late(rpc, timeout_s)
        return self._server.answer(rpc)

    async def close(self) -> None:
        pass


def _too_late(rpc: Rpc, timeout_s: float) -> ServerTimeoutError:
    return ServerTimeoutError(f"{rpc}: the pretended server took longer than {timeout_s:g} s")
