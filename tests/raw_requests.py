"""Requests as they go over the wire, right ones and wrong ones, for tests that ask a server without our clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_model import MAX_LENGTH
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

Arrays = dict[str, NDArray[Any]]
Ask = Callable[["Raw"], Arrays]
Change = Callable[[st.DrawFn, "Raw", str], "Raw"]

QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = settings(QUICK, max_examples=10_000, derandomize=False)

TIMEOUT_S = 60.0  # a busy machine is not what is tested here
REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT,)

# By which numbers requests tend to be wrong: by one, by a sign, or altogether.
ODD = [-(2**63), -(2**31), -301, -21, -11, -2, -1, 0, 1, 2, 10, 11, 20, 21, 300, 301, 320, 321, 2**31, 2**40, 2**63 - 1]
ODD_TEXTS = [b"", b"i", b"i0", b"i301", b"I1", b"\xff\xfe", b"\x00", b"i1\x00", b"x" * 5000, "\u00fc".encode()]
NAMES = {
    "int64": "INT64", "int32": "INT32", "float32": "FP32", "float64": "FP64", "uint64": "UINT64", "bool": "BOOL",
    "object": "BYTES",
}  # fmt: skip
DTYPES = {wire: dtype for dtype, wire in NAMES.items()}


@dataclass(frozen=True)
class Raw:
    """One request.

    Attributes:
        arrays: inputs by name.
        shapes: what is said of an input's shape, where that is not so.
        twice: an input that is sent twice.
        model: who is asked.
    """

    arrays: Arrays
    shapes: dict[str, list[int]] = field(default_factory=dict)
    twice: str = ""
    model: str = "interests_2"

    def message(self) -> Any:
        """As gRPC sends it."""
        request = service_pb2.ModelInferRequest(model_name=self.model)
        for name, array in [*self.arrays.items(), *([(self.twice, self.arrays[self.twice])] if self.twice else [])]:
            shape = self.shapes.get(name, list(array.shape))
            request.inputs.add(name=name, datatype=NAMES[array.dtype.name], shape=shape)
            request.raw_input_contents.append(_content(array))
        return request


def with_array(raw: Raw, name: str, array: NDArray[Any]) -> Raw:
    return replace(raw, arrays=raw.arrays | {name: array})


def without(raw: Raw, name: str) -> Raw:
    return replace(raw, arrays={other: array for other, array in raw.arrays.items() if other != name})


@contextmanager
def asking(url: str) -> Iterator[Ask]:
    """Sends one request; gives the outputs by name, or raises grpc.RpcError."""
    with grpc.insecure_channel(url, [("grpc.max_receive_message_length", -1)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def send(raw: Raw) -> Arrays:
            answer = stub.ModelInfer(raw.message(), timeout=TIMEOUT_S)
            return {
                output.name: _array(content, output.datatype).reshape(list(output.shape))
                for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
            }

        yield send


def assert_serves_as_before(ask: Ask, known: Raw, expected: Arrays) -> None:
    again = ask(known)
    assert all(np.array_equal(again[name], array) for name, array in expected.items())


def changed(draw: st.DrawFn, raw: Raw) -> Raw:
    """A right request made wrong in one or two ways, or right in another."""
    for change in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=2)):
        name = draw(st.sampled_from(sorted(raw.arrays)))
        raw = change(draw, raw, name)
    return raw


def another_value(draw: st.DrawFn, raw: Raw, name: str) -> Raw:
    array = raw.arrays[name].copy()
    if array.size and array.dtype == np.int64:
        value = draw(st.sampled_from(ODD) | st.integers(-(2**63), 2**63 - 1))
        array.flat[draw(st.integers(0, array.size - 1))] = value
    if array.size and array.dtype == object:
        array.flat[draw(st.integers(0, array.size - 1))] = draw(st.sampled_from(ODD_TEXTS) | st.binary(max_size=9))
    return with_array(raw, name, array)


def another_type(draw: st.DrawFn, raw: Raw, name: str) -> Raw:
    array, dtype = raw.arrays[name], draw(st.sampled_from(sorted(NAMES)))
    if dtype == "object":
        array = np.vectorize(lambda value: str(value).encode(), otypes=[object])(array)
    elif array.dtype == object:
        array = np.ones(array.shape)
    return with_array(raw, name, array.astype(dtype))


def another_shape(draw: st.DrawFn, raw: Raw, name: str) -> Raw:
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, MAX_LENGTH, MAX_LENGTH + 1, 300]), max_size=3))
    array = raw.arrays[name]
    one = b"i1" if array.dtype == object else 1
    return with_array(raw, name, np.full(shape, one, dtype=array.dtype))


def a_shape_that_lies(draw: st.DrawFn, raw: Raw, name: str) -> Raw:
    shape = draw(st.lists(st.sampled_from([-(2**63), -1, 0, 1, 2, 7, 2**31, 2**62]), max_size=4))
    return raw if shape == list(raw.arrays[name].shape) else replace(raw, shapes={name: shape})


def an_input_less(draw: st.DrawFn, raw: Raw, name: str) -> Raw:
    return raw if raw.twice or raw.shapes else without(raw, name)


def an_input_twice(draw: st.DrawFn, raw: Raw, name: str) -> Raw:
    return replace(raw, twice=name)


def an_input_more(draw: st.DrawFn, raw: Raw, name: str) -> Raw:
    return with_array(raw, draw(st.sampled_from(["past_key_values", "extra", ""])), raw.arrays[name])


CHANGES: list[Change] = [
    another_value, another_value, another_type, another_shape, a_shape_that_lies, an_input_less, an_input_twice,
    an_input_more,
]  # fmt: skip


def _content(array: NDArray[Any]) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    return serialize_byte_tensor(array).item() if array.size else b""


def _array(content: bytes, datatype: str) -> NDArray[Any]:
    return deserialize_bytes_tensor(content) if datatype == "BYTES" else np.frombuffer(content, DTYPES[datatype])
