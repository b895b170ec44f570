"""The exported graphs on Triton servers, over gRPC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recgpt.asking import Ask, drive
from recgpt.backends.base import ModelSpec
from recgpt.backends.graph_backend import GraphBackend
from recgpt.backends.tensors import NamedArrays
from recgpt.backends.triton_model import TritonModel
from recgpt.backends.triton_network import TritonNetwork
from recgpt.backends.triton_rpc import ModelStatistics, Statistics
from recgpt.remote.network import Network
from recgpt.signature import GraphSpec


class TritonBackend(GraphBackend):
    """Runs the graphs on a Triton server: the plain contract, each call sent once. Safe to call from several threads.

    Args:
        url: ``host:port`` of the server's gRPC endpoint; nothing is sent before the first call.
        spec: sizes of the exported model.
        fused: the J for which the server has ``interests_J``.
        model_version: the one version of the models that is asked.
        timeout_s: deadline of each call to the server.
        recalls: the J for which the server has ``recall_J``, and the most items that it gives.
        network: what carries the calls; None connects in the clear.

    Raises:
        ConfigError: the address is not of the form ``host:port``.
        DependencyError: the client library is not installed.
    """

    def __init__(
        self,
        url: str,
        spec: ModelSpec,
        *,
        fused: Iterable[int],
        model_version: str,
        timeout_s: float = 5.0,
        recalls: Mapping[int, int] | None = None,
        network: Network | None = None,
    ) -> None:
        super().__init__(spec, fused, recalls)
        self._url = url
        self._model = TritonModel(spec, fused=self._fused, version=model_version, recalls=self._recalls)
        self._connection = (network or TritonNetwork()).connect(url)
        self._timeout_s = timeout_s

    def check_ready(self) -> None:
        """Asks the server for every model that may be needed, in the version that is needed.

        Raises:
            ServerUnavailableError: no server answers, or it is not ready.
            ModelUnavailableError: it does not serve a model, or not in this version; says what it has.
        """
        drive(self._model.check_ready(self._url), self._call)

    def statistics(self) -> dict[str, ModelStatistics]:
        """Counts and times of each model in this backend's version, by name.

        Raises:
            ServerError: the server refuses.
        """
        found: dict[str, ModelStatistics] = self._call(Statistics(self._model.version))
        return found

    def close(self) -> None:
        """Closes the connection; calling it twice is harmless."""
        self._connection.close()

    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        return drive(self._model.run(graph, feeds), self._call)

    def _call(self, rpc: Ask[Any]) -> Any:
        return self._connection.call(rpc, self._timeout_s)
