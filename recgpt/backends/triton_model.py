"""A model as a Triton server serves it: what recall asks of it, as calls to the server. Sends nothing."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recgpt.asking import Ask
from recgpt.backends.asks import Decode, Interest, Interests, Prefill
from recgpt.backends.base import ModelSpec
from recgpt.backends.graph_calls import graph_answer, graph_run
from recgpt.backends.lengths import ladder
from recgpt.backends.tensors import NamedArrays
from recgpt.backends.triton_rpc import Infer, MaxBatchSize, ModelReady, ReadyModels, ServerReady
from recgpt.errors import ModelUnavailableError, ServerError
from recgpt.signature import DECODE, PREFILL, GraphSpec, TensorSpec, interests_spec, recall_spec

Calls = Generator[Ask[Any], Any, Any]


class TritonModel:
    """One version of the exported graphs behind a server.

    Histories, exclusions and caches are padded to a few widths, since the server batches requests of equal shapes only.

    Args:
        spec: sizes of the exported model.
        fused: the J for which the server has ``interests_J``.
        version: the one version of the models that is asked.
        recalls: the J for which the server has ``recall_J``.
    """

    def __init__(self, spec: ModelSpec, *, fused: Iterable[int], version: str, recalls: Iterable[int] = ()) -> None:
        self._spec = spec
        self._fused = frozenset(fused)
        self._recalls = frozenset(recalls)
        self._version = version
        self._max_batch_sizes: dict[str, int] = {}

    @property
    def spec(self) -> ModelSpec:
        """Sizes of the model."""
        return self._spec

    @property
    def fused(self) -> frozenset[int]:
        """The numbers of interests for which the server has a graph of its own."""
        return self._fused

    @property
    def version(self) -> str:
        """The version of the models that is asked."""
        return self._version

    def calls(self, ask: Ask[Any]) -> Calls:
        """The calls that answer a question about the model; any other question is asked as it is."""
        if not isinstance(ask, Prefill | Decode | Interest | Interests):
            return (yield ask)
        run = graph_run(ask, self._spec, self._fused)
        return graph_answer(ask, (yield from self.run(run.graph, run.feeds)))

    def run(self, graph: GraphSpec, feeds: NamedArrays) -> Generator[Ask[Any], Any, NamedArrays]:
        """The calls that run one graph, as many as its rows need."""
        sizes = axis_sizes(graph, feeds)
        widened = self._widened(graph, feeds)
        num_rows = sizes["B"]
        step = (yield from self._max_batch_size(graph.name)) if num_rows > 1 else 1
        parts = []
        for start in range(0, max(num_rows, 1), step):
            part = {name: array[start : start + step] for name, array in widened.items()}
            parts.append((yield from Infer(graph, self._version, part)))
        joined = parts[0] if len(parts) == 1 else _joined(graph, parts)
        return {tensor.name: _narrowed(joined[tensor.name], tensor, sizes) for tensor in graph.outputs}

    def check_ready(self, url: str) -> Generator[Ask[Any], Any, None]:
        """The calls that ask a server for every model that may be needed, in the version that is needed.

        Raises:
            ServerUnavailableError: no server answers, or it has not started yet.
            ModelUnavailableError: it does not serve a model, or not in this version; says what it has. A server that
                is not ready for the sake of other models, or while it unloads some, can be asked for these.
        """
        names = [PREFILL.name, DECODE.name, *(interests_spec(number).name for number in sorted(self._fused))]
        names += [recall_spec(number).name for number in sorted(self._recalls)]
        yield from self.check_served(names, url)

    def check_served(self, names: Sequence[str], url: str) -> Generator[Ask[Any], Any, None]:
        """``check_ready`` for models of these names; errors as there."""
        missing = []
        for name in names:
            if not (yield from ModelReady(name, self._version)):
                missing.append(name)
        if not missing:
            return
        advice = "serve the triton_models/ of this export, or use the bundle that is served"
        if not (yield from ServerReady()):
            advice = "it is not ready: wait, or see its log"
        raise ModelUnavailableError(
            f"the server at {url} does not serve {', '.join(missing)} in version {self._version}; it has "
            f"{(yield from _served())}; {advice}"
        )

    def _widened(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        """Pads history, cache and exclusions with zeros to the next width of the ladder; new tokens are all real."""
        highest = {"T": self._spec.max_length, "P": self._spec.max_length, "E": None}
        widened = {}
        for tensor in graph.inputs:
            if tensor.name not in feeds and tensor.optional:
                continue
            array = feeds[tensor.name]
            axes = zip(tensor.axes, array.shape, strict=True)
            shape = tuple(ladder(size, highest[axis]) if axis in highest else size for axis, size in axes)
            widened[tensor.name] = array if shape == array.shape else _filled_up(array, shape)
        return widened

    def _max_batch_size(self, name: str) -> Generator[Ask[Any], Any, int]:
        if name not in self._max_batch_sizes:
            self._max_batch_sizes[name] = yield from MaxBatchSize(name, self._version)
        return self._max_batch_sizes[name]


def _served() -> Generator[Ask[Any], Any, str]:
    try:
        models = yield from ReadyModels()
    except ServerError as error:
        return f"models it does not tell of ({error})"
    return ", ".join(f"{name} {version}" for name, version in models) or "no model that is ready"


def axis_sizes(graph: GraphSpec, feeds: NamedArrays) -> dict[str | int, int]:
    """The size of each axis letter of a graph's inputs."""
    return {
        axis: size
        for tensor in graph.inputs
        if tensor.name in feeds
        for axis, size in zip(tensor.axes, feeds[tensor.name].shape, strict=True)
    }


def _filled_up(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """An array with zeros behind it on each axis; ``numpy.pad`` takes several times as long."""
    filled = np.zeros(shape, dtype=array.dtype)
    filled[tuple(map(slice, array.shape))] = array
    return filled


def _joined(graph: GraphSpec, parts: Sequence[NamedArrays]) -> NamedArrays:
    return {tensor.name: np.concatenate([part[tensor.name] for part in parts]) for tensor in graph.outputs}


def _narrowed(array: NDArray[Any], tensor: TensorSpec, sizes: Mapping[str | int, int]) -> NDArray[Any]:
    """Cuts off what padding added to an output; real tokens come first in each row of a cache."""
    wanted = {"T": sizes.get("T"), "P+S": sizes.get("P", 0) + sizes.get("S", 0)}
    return array[tuple(slice(wanted.get(axis)) if isinstance(axis, str) else slice(None) for axis in tensor.axes)]
