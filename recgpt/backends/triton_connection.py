"""One gRPC connection to a Triton server: a deadline on every call, and our errors; knows nothing of graphs."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from recgpt.backends.triton_errors import server_error
from recgpt.errors import ConfigError, ServerUnavailableError
from recgpt.extras import require

_ADDRESS = re.compile(r"[^/\s]+:\d{1,5}")

_CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC would wait up to two minutes before it looks again for a server that was restarted.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class TritonConnection:
    """Calls the methods of Triton's own client. Safe to use from several threads.

    Args:
        url: ``host:port`` of the server's gRPC endpoint; nothing is sent before the first call.
        timeout_s: deadline of each call.

    Attributes:
        url: as given.

    Raises:
        ConfigError: the address is not of the form ``host:port``.
        DependencyError: the client library is not installed.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        if _ADDRESS.fullmatch(url) is None:
            raise ConfigError(f"url {url!r}: expected host:port of the gRPC endpoint, as in localhost:8001")
        self.url = url
        self._timeout_s = timeout_s
        self._refusal: type[Exception] = require("tritonclient.utils").InferenceServerException
        self._client: Any = require("tritonclient.grpc").InferenceServerClient(url, channel_args=_CHANNEL)
        self._closed = False

    def call(self, what: str, method: str, **arguments: Any) -> Any:
        """Calls a method of the client library; ServerError or RequestError, naming ``what``, if the call fails."""
        if self._closed:
            raise ServerUnavailableError(f"{what}: the connection to {self.url} was closed; open a new one")
        function: Callable[..., Any] = getattr(self._client, method)
        try:
            return function(client_timeout=self._timeout_s, **arguments)
        except self._refusal as error:
            status, text = error.status(), error.message()  # type: ignore[attr-defined]
            raise server_error(status, text, url=self.url, what=what) from error

    def close(self) -> None:
        """Closes the connection; calling it twice is harmless."""
        self._closed = True
        self._client.close()
