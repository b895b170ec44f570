"""ONNX files of a few operators, written without the onnx package, which serving does not install.

A file is one protobuf message. Only what a small graph needs of the format is here: operators with whole numbers as
attributes, arrays as constants, inputs and outputs with free sizes. Knows nothing of what graphs are for.

Source: onnx/onnx.proto of ONNX 1.16 (field numbers), protobuf.dev/programming-guides/encoding (wire format).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# What ONNX Runtime has loaded since 1.18, as for the exported graphs.
_IR_VERSION = 10
_OPSET = 20

_ELEMENT_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9}
_INT_ATTRIBUTE = 2


@dataclass(frozen=True)
class Node:
    """One operator of ONNX's own set.

    Attributes:
        op: its name.
        inputs: names of values.
        outputs: names of values.
        attributes: whole numbers by name.
    """

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Tensor:
    """An input or output; a size is a number, or a name where it is free."""

    name: str
    dtype: str
    axes: Sequence[str | int]


class Operators:
    """Writes nodes by calls: ``op.Add(a, b)`` gives the name of the sum. Where an operator has two outputs, of both.

    Attributes:
        nodes: in the order of the calls.
        constants: arrays by name.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def constant(self, value: Any, dtype: DTypeLike) -> str:
        """The name of an array."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.array(value, dtype=dtype)
        return name

    def __getattr__(self, op: str) -> Callable[..., Any]:
        """What writes a node of this operator, of the names of its inputs and whole numbers as attributes."""

        def write(*inputs: str, **attributes: int) -> Any:
            names = [f"{op}_{len(self.nodes)}_{place}" for place in range(2 if op == "TopK" else 1)]
            self.nodes.append(Node(op, inputs, names, attributes))
            return names if len(names) > 1 else names[0]

        return write


def release_bytes(session: Any) -> None:
    """Lets go of the file that a session of ONNX Runtime was made of: as many bytes as all that it computes with.

    It keeps them to begin again on another execution provider, and is left them where it has one.
    """
    if session.get_providers() == ["CPUExecutionProvider"]:
        session._model_bytes = None


def write_graph(
    nodes: Sequence[Node], constants: Mapping[str, NDArray[Any]], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> bytes:
    """One graph as the content of an ONNX file.

    Args:
        nodes: in an order in which they can run.
        constants: float32, int8, uint8, int32 or int64 arrays by name, below 2 GiB in all.
        inputs: what it is fed.
        outputs: what it gives.
    """
    graph = b"".join(
        [
            *(_message(1, _node(node)) for node in nodes),
            _message(2, b"graph"),
            *(_message(5, _constant(name, array)) for name, array in constants.items()),
            *(_message(11, _tensor(tensor)) for tensor in inputs),
            *(_message(12, _tensor(tensor)) for tensor in outputs),
        ]
    )
    return _number(1, _IR_VERSION) + _message(7, graph) + _message(8, _message(1, b"") + _number(2, _OPSET))


def _node(node: Node) -> bytes:
    names = [_message(1, name.encode()) for name in node.inputs] + [_message(2, name.encode()) for name in node.outputs]
    attributes = [
        _message(5, _message(1, name.encode()) + _number(3, value) + _number(20, _INT_ATTRIBUTE))
        for name, value in node.attributes.items()
    ]
    return b"".join([*names, _message(4, node.op.encode()), *attributes])


def _constant(name: str, array: NDArray[Any]) -> bytes:
    sizes = b"".join(_number(1, size) for size in array.shape)
    data = np.ascontiguousarray(array).tobytes()
    return sizes + _number(2, _ELEMENT_TYPES[str(array.dtype)]) + _message(8, name.encode()) + _message(9, data)


def _tensor(tensor: Tensor) -> bytes:
    sizes = [_number(1, axis) if isinstance(axis, int) else _message(2, axis.encode()) for axis in tensor.axes]
    shape = b"".join(_message(1, size) for size in sizes)
    kind = _number(1, _ELEMENT_TYPES[tensor.dtype]) + _message(2, shape)
    return _message(1, tensor.name.encode()) + _message(2, _message(1, kind))


def _message(tag: int, content: bytes) -> bytes:
    return _varint(tag << 3 | 2) + _varint(len(content)) + content


def _number(tag: int, value: int) -> bytes:
    return _varint(tag << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; negative numbers are not needed."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
