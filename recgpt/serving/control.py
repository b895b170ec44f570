"""Which models a running Triton server serves: loads and unloads them, by explicit model control."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from recgpt.backends.triton_network import TritonNetwork
from recgpt.backends.triton_rpc import LoadModel, UnloadModel
from recgpt.errors import ModelUnavailableError, RequestError, ServerError, ServerRefusedError, ServerUnavailableError

# A server loads a graph in seconds; one that is busy, or large graphs on a GPU, take longer.
LOAD_TIMEOUT_S = 300.0


class ModelControl:
    """The models of one server that was started with ``--model-control-mode=explicit``.

    Args:
        url: ``host:port`` of its gRPC endpoint.
        network: how it is reached; None connects in the clear and without a key.
        timeout_s: deadline of each call; loading a model is one.
    """

    def __init__(self, url: str, *, network: TritonNetwork | None = None, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        self._url = url
        self._connection = (network or TritonNetwork()).connect(url)
        self._timeout_s = timeout_s

    def load(self, names: Iterable[str]) -> None:
        """Lets the server look at these models anew: it loads versions that came and unloads those that went.

        What it serves meanwhile goes on, and calls that run are finished.

        Raises:
            ServerRefusedError: the server was not started for explicit control.
            ModelUnavailableError: it cannot load a model; what it had of it stays.
        """
        for name in names:
            try:
                self._connection.call(LoadModel(name), self._timeout_s)
            except (ServerRefusedError, ServerUnavailableError):
                raise
            except (RequestError, ServerError) as error:
                raise ModelUnavailableError(
                    f"the server at {self._url} cannot load {name}; does it serve the model repository that "
                    f"was published to? {error}"
                ) from error

    def unload(self, names: Iterable[str]) -> None:
        """Lets the server drop these models, each when its calls have ended."""
        for name in names:
            self._connection.call(UnloadModel(name), self._timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()
