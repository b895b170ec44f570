"""The exported graphs in ONNX Runtime, in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recgpt.backends.base import InterestsOutput, ModelSpec, RecallOutput, Tokens, check_tokens
from recgpt.backends.graph_backend import MIN_SCANNED, GraphBackend
from recgpt.backends.lengths import RunCost, measure_run_cost, run_in_parts
from recgpt.backends.tensors import (
    NamedArrays,
    check_fused,
    fused_numbers,
    interests_output,
    prefill_feeds,
    recall_numbers,
)
from recgpt.errors import BundleError, BundleMismatchError, ConfigError
from recgpt.extras import require
from recgpt.recall.onnx_bytes import release_bytes
from recgpt.recall.shares import check_num_threads
from recgpt.signature import (
    ITEM_MATRIX,
    PREFILL,
    GraphSpec,
    TensorSpec,
    graph_spec,
    interests_spec,
    recall_scan_spec,
    recall_spec,
)
from recgpt.turns import outside
from recgpt.types import Int64Array

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

EXACT: Mapping[str, str] = {"use_tf32": "0"}
"""Options of CUDA: products in float32; its default has 10 bits behind the point, and lists would differ."""

REPLAYED: Mapping[str, str] = {**EXACT, "enable_cuda_graph": "1"}
"""The same, with kernels recorded once and replayed; for sessions that run on bound memory only."""

_ORT_DTYPES = {"int64": "tensor(int64)", "float32": "tensor(float)"}


class OnnxRuntimeBackend(GraphBackend):
    """Runs ONNX files; one session a graph, made at once, so that a bad file shows here and no first call is slow.

    Safe to call from several threads: ONNX Runtime's sessions are. A batch of different lengths is run in parts where
    that is faster, by what runs of the graph were found to cost when it was loaded.

    Args:
        graphs: file of each graph by its name; ``prefill`` and ``decode`` are needed, ``interests_J``, ``recall_J``
            and beside it ``recall_scan_J`` as wanted. Only the CPU runs the last.
        spec: sizes of the exported model; the files are held against them.
        num_threads: threads of one call; None leaves it to ONNX Runtime (one a core).
        providers: execution providers in order of preference; None takes CUDA where it works, else the CPU.
        item_matrix: (at least V + 1, D), the item matrix of these graphs, of the type that they hold: all of them use
            this memory instead of a copy each. None leaves every graph its own.

    Raises:
        BundleError: a graph is missing, damaged, or has other tensors than its signature says.
        ConfigError: ``num_threads`` or ``providers`` cannot be had on this machine.
        DependencyError: ONNX Runtime is not installed, or twice.
    """

    def __init__(
        self,
        graphs: Mapping[str, Path],
        spec: ModelSpec,
        *,
        num_threads: int | None = None,
        providers: Sequence[str] | None = None,
        item_matrix: NDArray[Any] | None = None,
    ) -> None:
        check_num_threads(num_threads)
        super().__init__(spec, fused_numbers(graphs))
        self._ort = require("onnxruntime")
        # Its exceptions have no base class of their own; all of them are in this module.
        state = require("onnxruntime.capi.onnxruntime_pybind11_state")
        found = [value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception)]
        self._ort_errors: tuple[type[Exception], ...] = (*found, RuntimeError, ValueError)
        options = self._options(num_threads)
        chosen = self._chosen(providers)
        # Sessions do not keep it alive. Other devices have memory of their own.
        self._shared = self._share(item_matrix, options) if item_matrix is not None and chosen[0] == CPU else None
        numbers = recall_numbers(graphs)
        left_out = {recall_scan_spec(number).name for number in numbers} if chosen[0] != CPU else set()
        self._sessions = {
            name: self._session(name, path, options, chosen) for name, path in graphs.items() if name not in left_out
        }
        self._recalls = self._most_recalled({number: recall_spec(number) for number in numbers})
        self._scans = self._most_recalled({number: recall_scan_spec(number) for number in numbers})
        if providers is not None:
            self._refuse_fallback(providers[0])
        self._costs = {
            number: measure_run_cost(partial(self._interests, num_interests=number), spec, num_interests=number)
            for number in self._fused
        }
        self._recall_costs = {
            number: measure_run_cost(partial(self._recall_one_each, num_interests=number), spec, num_interests=number)
            for number in self._recalls
        }

    @property
    def provider(self) -> str:
        """The execution provider that runs the graphs, by ONNX Runtime's name."""
        return str(self._sessions[PREFILL.name].get_providers()[0])

    @property
    def costs(self) -> Mapping[int, RunCost]:
        """What a run of each ``interests_J`` costs here, by J."""
        return self._costs

    def interests(self, tokens: Tokens, num_interests: int) -> InterestsOutput:
        """See ``Backend.interests``; RequestError if the tokens do not fit or there is no such graph."""
        check_fused(num_interests, self._fused)
        check_tokens(tokens, self._spec, num_steps=num_interests)
        cost = self._costs[num_interests]
        return run_in_parts(lambda part, places: self._interests(part, num_interests), tokens, cost)

    def close(self) -> None:
        """Lets go of the sessions; those that run finish first."""
        self._sessions = {}

    def _interests(self, tokens: Tokens, num_interests: int) -> InterestsOutput:
        return interests_output(self._run(interests_spec(num_interests), prefill_feeds(tokens)))

    def _recall(self, tokens: Tokens, quotas: Int64Array) -> RecallOutput:
        run, cost = super()._recall, self._recall_costs[quotas.shape[1]]
        if len(tokens) < MIN_SCANNED:
            return run_in_parts(lambda part, places: run(part, quotas[places]), tokens, cost)
        # Some parts may be scanned for and others not, and such graphs give lists of different widths.
        most = int(quotas.sum(axis=1).max())
        return run_in_parts(lambda part, places: run(part, quotas[places]).first(most), tokens, cost)

    def _recall_one_each(self, tokens: Tokens, num_interests: int) -> RecallOutput:
        return super()._recall(tokens, np.ones((len(tokens), num_interests), dtype=np.int64))

    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        session = self._sessions.get(graph.name)
        if session is None:
            raise BundleError(f"{graph.name}: this backend was closed; load the bundle again")
        names = [tensor.name for tensor in graph.outputs]
        try:
            outputs = outside(session.run, names, feeds)
        except self._ort_errors as error:
            shapes = {name: array.shape for name, array in feeds.items()}
            raise BundleError(
                f"{graph.name}: ONNX Runtime cannot run the graph on inputs of shapes {shapes}: {error}"
            ) from error
        return dict(zip(names, outputs, strict=True))

    def _most_recalled(self, graphs: Mapping[int, GraphSpec]) -> dict[int, int]:
        """How many items each of these graphs gives that was loaded; it alone tells."""
        loaded = {
            number: self._sessions[graph.name] for number, graph in graphs.items() if graph.name in self._sessions
        }
        return {number: int(session.get_outputs()[0].shape[1]) for number, session in loaded.items()}

    def _session(self, name: str, path: Path, options: Any, providers: Sequence[str]) -> Any:
        if not Path(path).is_file():
            raise BundleError(f"{path} is missing; export the checkpoint again")
        try:
            exact = [(provider, dict(EXACT)) if provider == CUDA else provider for provider in providers]
            # By its bytes: whatever a made-up file says, ONNX Runtime then reads no other one.
            session = self._ort.InferenceSession(Path(path).read_bytes(), options, providers=exact)
            release_bytes(session)
        except self._ort_errors as error:
            raise BundleError(
                f"{path}: ONNX Runtime cannot load the graph; export the checkpoint again: {error}"
            ) from error
        graph = graph_spec(name)
        _check_tensors(path, "input", graph.inputs, session.get_inputs(), self._spec)
        _check_tensors(path, "output", graph.outputs, session.get_outputs(), self._spec)
        return session

    def _options(self, num_threads: int | None) -> Any:
        options = self._ort.SessionOptions()
        options.graph_optimization_level = self._ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = num_threads or 0
        # Threads that spin while they wait take the cores from the item index and from other requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return options

    def _share(self, item_matrix: NDArray[Any], options: Any) -> Any:
        """ONNX Runtime checks neither type nor shape; with wrong ones it reads other memory."""
        rows, width = self._spec.num_items + 1, self._spec.hidden_size
        if item_matrix.ndim != 2 or len(item_matrix) < rows or item_matrix.shape[1] != width:
            raise BundleMismatchError(
                f"item_matrix has shape {item_matrix.shape}; expected ({rows}, {width}), one row an item and row 0"
            )
        shared = self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(item_matrix[:rows]))
        options.add_initializer(ITEM_MATRIX, shared)
        return shared

    def _chosen(self, providers: Sequence[str] | None) -> Sequence[str]:
        available = self._ort.get_available_providers()
        if providers is None:
            return [name for name in (CUDA, CPU) if name in available]
        if not providers or not set(providers) <= set(available):
            raise ConfigError(
                f"providers {list(providers)}: this ONNX Runtime has {available}; for {CUDA} install the extra gpu "
                f"instead of cpu"
            )
        return providers

    def _refuse_fallback(self, wanted: str) -> None:
        if self.provider != wanted:
            raise ConfigError(
                f"{wanted} was asked for, but ONNX Runtime runs the graphs on {self.provider}; expected a working GPU "
                f"driver, CUDA and cuDNN: its log says which is missing. Leave providers out to accept the CPU"
            )


def _check_tensors(
    path: Path, kind: str, expected: Sequence[TensorSpec], found: Sequence[Any], spec: ModelSpec
) -> None:
    """BundleError unless names, order, types and the sizes that the model decides are those of the signature."""
    sizes = {"L": spec.num_blocks, "H": spec.num_heads, "Dh": spec.head_size, "D": spec.hidden_size}
    names = [node.name for node in found]
    if names != [tensor.name for tensor in expected]:
        raise BundleError(f"{path}: {kind}s {names}; expected {[tensor.name for tensor in expected]}; export again")
    for tensor, node in zip(expected, found, strict=True):
        shape = [axis if isinstance(axis, int) else sizes.get(axis) for axis in tensor.axes]
        # ONNX Runtime gives a number for a fixed size and a name for a free one.
        fixed = [size if isinstance(size, int) else None for size in node.shape]
        if "K" in tensor.axes:
            # The export's choice, which the file alone tells.
            shape[1] = fixed[1] if fixed[1] is not None else 0
        if node.type != _ORT_DTYPES[tensor.dtype] or fixed != shape:
            raise BundleError(
                f"{path}: {kind} {tensor.name} is {node.type} {node.shape}; expected {tensor.dtype} of axes "
                f"{list(tensor.axes)}, {shape} where fixed; export again"
            )
