"""gRPC connections to Triton servers: a deadline on every call, and our errors; knows nothing of graphs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recgpt.backends.triton_codec import TritonCodec
from recgpt.backends.triton_errors import server_error
from recgpt.backends.triton_rpc import Rpc
from recgpt.errors import ConfigError, RequestError, ServerError, ServerUnavailableError
from recgpt.extras import require
from recgpt.remote.network import AsyncConnection, Connection
from recgpt.remote.policy import TlsOptions

MAX_MESSAGE_BYTES = 256 * 2**20
"""Largest request or response; a cache of 256 rows of a model of width 256 and 4 blocks has 105 MB."""

CONTROL_HEADER = "triton-grpc-protocol-recgpt-control"
"""Triton's name of the header that ``--grpc-restricted-protocol=...:recgpt-control=KEY`` looks at."""

_ADDRESS = re.compile(r"[^/\s]+:\d{1,5}")

_CHANNEL = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # gRPC would wait up to two minutes before it looks again for a server that was restarted.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class TritonNetwork:
    """Connects to Triton servers.

    Args:
        tls: None sends and receives in the clear.
        control_key: what servers ask for that were started with
            ``--grpc-restricted-protocol=model-repository:recgpt-control=KEY``; sent with every call.

    Raises:
        DependencyError: the client library is not installed.
    """

    def __init__(self, *, tls: TlsOptions | None = None, control_key: str | None = None) -> None:
        require("tritonclient.grpc")
        self._grpc = require("grpc")
        self._tls = tls
        self._metadata = ((CONTROL_HEADER, control_key),) if control_key is not None else ()

    def connect(self, url: str) -> Connection:
        """See ``Network.connect``."""
        return _TritonConnection(self._protocol(url), self._channel(self._grpc, url))

    def connect_async(self, url: str) -> AsyncConnection:
        """See ``Network.connect_async``."""
        channel = self._channel(require("grpc.aio"), url)
        return _AsyncTritonConnection(self._protocol(url), channel)

    def _protocol(self, url: str) -> _Protocol:
        return _Protocol(url, encrypted=self._tls is not None, metadata=self._metadata)

    def _channel(self, library: Any, url: str) -> Any:
        if _ADDRESS.fullmatch(url) is None:
            raise ConfigError(f"url {url!r}: expected host:port of the gRPC endpoint, as in localhost:8001")
        if self._tls is None:
            return library.insecure_channel(url, options=_CHANNEL)
        credentials = self._grpc.ssl_channel_credentials(
            root_certificates=_read(self._tls.ca),
            private_key=_read(self._tls.key),
            certificate_chain=_read(self._tls.certificate),
        )
        return library.secure_channel(url, credentials, options=_CHANNEL)


class _Protocol:
    """What both kinds of connection share: messages and errors."""

    def __init__(self, url: str, *, encrypted: bool, metadata: tuple[tuple[str, str], ...]) -> None:
        self.url = url
        self.metadata = metadata
        self.codec = TritonCodec()
        self.errors: type[Exception] = require("grpc").RpcError
        self._encrypted = encrypted

    def stub(self, channel: Any) -> Any:
        return require("tritonclient.grpc").service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def error(self, rpc: Rpc, failure: Any) -> ServerError | RequestError:
        return server_error(
            str(failure.code()), failure.details() or "", url=self.url, what=str(rpc), encrypted=self._encrypted
        )

    def closed(self, rpc: Rpc) -> ServerUnavailableError:
        return ServerUnavailableError(f"{rpc}: the connection to {self.url} was closed; open a new one")


class _TritonConnection:
    def __init__(self, protocol: _Protocol, channel: Any) -> None:
        self._protocol = protocol
        self._channel = channel
        self._stub = protocol.stub(channel)
        self._closed = False

    def call(self, rpc: Rpc, timeout_s: float) -> Any:
        method, request = self._method(rpc)
        try:
            response = method(request, timeout=timeout_s, metadata=self._protocol.metadata)
        except self._protocol.errors as failure:
            raise self._protocol.error(rpc, failure) from failure
        return self._protocol.codec.decode(rpc, response)

    def start(
        self, rpc: Rpc, timeout_s: float, done: Callable[[Any, ServerError | RequestError | None], None]
    ) -> Callable[[], None]:
        method, request = self._method(rpc)
        future = method.future(request, timeout=timeout_s, metadata=self._protocol.metadata)

        def ended(future: Any) -> None:
            failure = future if future.cancelled() else future.exception()
            if failure is not None:
                done(None, self._protocol.error(rpc, failure))
                return
            try:
                answer = self._protocol.codec.decode(rpc, future.result())
            except ServerError as error:
                done(None, error)
            else:
                done(answer, None)

        future.add_done_callback(ended)
        cancel: Callable[[], None] = future.cancel
        return cancel

    def close(self) -> None:
        self._closed = True
        self._channel.close()

    def _method(self, rpc: Rpc) -> tuple[Any, Any]:
        if self._closed:
            raise self._protocol.closed(rpc)
        name, request = self._protocol.codec.encode(rpc)
        return getattr(self._stub, name), request


class _AsyncTritonConnection:
    def __init__(self, protocol: _Protocol, channel: Any) -> None:
        self._protocol = protocol
        self._channel = channel
        self._stub = protocol.stub(channel)
        self._closed = False

    async def call(self, rpc: Rpc, timeout_s: float) -> Any:
        if self._closed:
            raise self._protocol.closed(rpc)
        name, request = self._protocol.codec.encode(rpc)
        try:
            method = getattr(self._stub, name)
            response = await method(request, timeout=timeout_s, metadata=self._protocol.metadata)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():  # the channel ended it, not the caller
                raise self._protocol.closed(rpc) from None
            raise
        except self._protocol.errors as failure:
            raise self._protocol.error(rpc, failure) from failure
        return self._protocol.codec.decode(rpc, response)

    async def close(self) -> None:
        self._closed = True
        await self._channel.close()


def _read(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
