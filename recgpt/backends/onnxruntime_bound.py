"""A graph bound to memory of a device: inputs are written into place, outputs stay where they are.

Of one shape each, on fixed addresses, so that the CUDA execution provider may record its kernels once and replay them
(``enable_cuda_graph``). Shapes come from a ladder, so that there are few. Knows sessions and arrays; nothing of recall.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from recgpt.backends.base import ModelSpec, Tokens
from recgpt.backends.lengths import ladder
from recgpt.backends.tensors import NamedArrays, prefill_feeds
from recgpt.extras import require
from recgpt.recall.index_gpu import DeviceMatrix
from recgpt.signature import GENERATED_IDS, INTERESTS, GraphSpec, TensorSpec
from recgpt.types import Int64Array

Key = tuple[tuple[int, ...], ...]


class BoundInterests:
    """Runs a fused graph on memory of its own. Safe to call from several threads, which take turns.

    Args:
        session: of ONNX Runtime, of the graph.
        graph: ``interests_J``.
        spec: sizes of the model.
        device: ONNX Runtime's name of where inputs and outputs lie: ``cuda`` or ``cpu``.
    """

    def __init__(self, session: Any, graph: GraphSpec, spec: ModelSpec, *, device: str) -> None:
        self._session = session
        self._graph = graph
        self._spec = spec
        self._device = device
        self._bound: dict[Key, _Bound] = {}
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def run(self, tokens: Tokens) -> Iterator[tuple[DeviceMatrix, Int64Array]]:
        """Runs a batch, filled up to the ladder's shape.

        Gives the interests (B * J, D) on the device, valid within the block, and the generated rows (B, J - 1) int64 in
        main memory. Others wait until the block is left.
        """
        feeds = prefill_feeds(filled_up(tokens, max_length=self._spec.max_length))
        with self._turn:
            outputs = self._bound_to(feeds).run(feeds)
            interests = outputs[INTERESTS]
            _, number, width = interests.shape()
            generated = np.zeros((len(tokens), 0), dtype=np.int64)
            if GENERATED_IDS in outputs:
                generated = outputs[GENERATED_IDS].numpy()[: len(tokens)]
            shape = (len(tokens) * number, width)
            yield DeviceMatrix(address=interests.data_ptr(), shape=shape, owner=interests), generated

    def _bound_to(self, feeds: NamedArrays) -> _Bound:
        """The memory for feeds of these shapes, made at the first call."""
        key = tuple(array.shape for array in feeds.values())
        if key not in self._bound:
            sizes: dict[str | int, int] = {"B": key[0][0], "D": self._spec.hidden_size}
            outputs = {
                tensor: tuple(axis if isinstance(axis, int) else sizes[axis] for axis in tensor.axes)
                for tensor in self._graph.outputs
            }
            inputs = dict(zip(self._graph.inputs, key, strict=True))
            # What CUDA recorded for a shape goes by this number.
            number = len(self._bound) + 1
            self._bound[key] = _Bound(self._session, inputs, outputs, device=self._device, graph_id=number)
        return self._bound[key]


class _Bound:
    """Inputs and outputs of one shape each, bound to a session."""

    def __init__(
        self,
        session: Any,
        inputs: Mapping[TensorSpec, tuple[int, ...]],
        outputs: Mapping[TensorSpec, tuple[int, ...]],
        *,
        device: str,
        graph_id: int,
    ) -> None:
        ort = require("onnxruntime")
        self._session = session
        self._binding = session.io_binding()
        self._inputs, self._outputs = (
            {
                tensor.name: ort.OrtValue.ortvalue_from_shape_and_type(
                    list(shape), np.dtype(tensor.dtype).type, device, 0
                )
                for tensor, shape in tensors.items()
            }
            for tensors in (inputs, outputs)
        )
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph_id))

    def run(self, feeds: NamedArrays) -> Mapping[str, Any]:
        """The outputs, by name, where they lie; the next run writes over them."""
        for name, array in feeds.items():
            self._inputs[name].update_inplace(array)
        self._session.run_with_iobinding(self._binding, self._options)
        return self._outputs


def filled_up(tokens: Tokens, *, max_length: int) -> Tokens:
    """The same rows and others behind them, up to the next sizes of the ladder: rows, history and exclusions."""
    num_rows = 1 << (len(tokens) - 1).bit_length()
    wide = tokens.padded(ladder(tokens.item_rows.shape[1], max_length), ladder(tokens.excluded.shape[1]))
    missing = num_rows - len(tokens)

    def more(rows: Int64Array, value: int) -> Int64Array:
        return np.concatenate([rows, np.full((missing, *rows.shape[1:]), value, dtype=np.int64)])

    return Tokens(
        user_rows=more(wide.user_rows, 0),
        item_rows=more(wide.item_rows, 0),
        segments=more(wide.segments, 0),
        lengths=more(wide.lengths, 1),
        excluded=more(wide.excluded, 0),
    )
