"""Requests that no client of ours would send, on the raw gRPC interface of a real server.

Each gets an error, or the answer that the eager model gives to it; and the server then answers a known request as it
did before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_model import MAX_LENGTH, NUM_ITEMS, NUM_USERS, Export, Served
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recgpt import signature
from recgpt.model.decoder import Decoder

# float32 sums in another order, of values of about 1.
TOLERANCE = 1e-5
TIMEOUT_S = 60.0  # a busy machine is not what is tested here
REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT,)
# The scan fills the catalogue up to blocks of 64 columns; who excludes one of these excludes nothing.
LAST_EXCLUDED = -(-(NUM_ITEMS + 1) // 64) * 64 - 1

Change = Callable[[st.DrawFn, "Raw", str], "Raw"]
Ask = Callable[["Raw"], dict[str, NDArray[Any]]]

# By which numbers requests tend to be wrong: by one, by a sign, or altogether.
ODD = [-(2**63), -(2**31), -301, -21, -11, -2, -1, 0, 1, 2, 10, 11, 20, 21, 300, 301, 320, 321, 2**31, 2**40, 2**63 - 1]
NAMES = {"int64": "INT64", "int32": "INT32", "float32": "FP32", "float64": "FP64", "uint64": "UINT64", "bool": "BOOL"}


@dataclass(frozen=True)
class Raw:
    """One request as it goes over the wire."""

    arrays: dict[str, NDArray[Any]]
    shapes: dict[str, list[int]] = field(default_factory=dict)
    twice: str = ""
    model: str = "interests_2"

    def message(self) -> Any:
        request = service_pb2.ModelInferRequest(model_name=self.model)
        for name, array in [*self.arrays.items(), *([(self.twice, self.arrays[self.twice])] if self.twice else [])]:
            shape = self.shapes.get(name, list(array.shape))
            request.inputs.add(name=name, datatype=NAMES[array.dtype.name], shape=shape)
            request.raw_input_contents.append(array.tobytes())
        return request


def plain(items: list[int], *, user: int = 3, excluded: list[int] | None = None) -> Raw:
    """A request that is right."""
    return Raw(
        {
            signature.USER_IDS: np.array([[user]]),
            signature.INPUT_IDS: np.array([items]),
            signature.SEGMENT_IDS: np.zeros((1, len(items)), dtype=np.int64),
            signature.LENGTHS: np.array([[len(items)]]),
            signature.EXCLUDED_IDS: np.array([excluded or [0]]),
        }
    )


def with_array(raw: Raw, name: str, array: NDArray[Any]) -> Raw:
    return replace(raw, arrays=raw.arrays | {name: array})


def without(raw: Raw, name: str) -> Raw:
    return replace(raw, arrays={other: array for other, array in raw.arrays.items() if other != name})


def is_right(raw: Raw) -> bool:
    """Whether the server promises an answer: what docs/serving.md says, written once more."""
    arrays, declared = raw.arrays, dict(raw.shapes)
    if set(arrays) != {tensor.name for tensor in signature.interests_spec(2).inputs} or raw.twice:
        return False
    user, items, segments, lengths, excluded = arrays.values()
    rows, width = items.shape if items.ndim == 2 else (0, 0)
    # Triton knows the number of rows from the first input by name, in 32 bits, where 0 says nothing.
    first, *others = declared.pop(signature.EXCLUDED_IDS, excluded.shape) or (0,)
    read = (first % 2**32 or rows, *others)
    fits = excluded.shape[:1] == (rows,) and read == excluded.shape or excluded.shape == (0, 0) and read == (rows, 0)
    shapes = [user.shape == (rows, 1), segments.shape == (rows, width), lengths.shape == (rows, 1), not declared]
    shapes += [len(read) == 2 and fits, 1 <= rows <= 256, 1 <= width <= MAX_LENGTH]
    if not all(shapes) or any(array.dtype != np.int64 for array in arrays.values()):
        return False
    ranges = [(user, 0, NUM_USERS), (items, 0, NUM_ITEMS), (segments, 0, 1), (excluded, 0, LAST_EXCLUDED)]
    ranges.append((lengths, 1, min(width, MAX_LENGTH - 1)))
    return all(((array >= low) & (array <= high)).all() for array, low, high in ranges)


def eager_answer(decoder: Decoder, arrays: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """First interests (B, D) by recomputing each row by itself, without padding."""
    rows = []
    for user, items, segments, (length,) in zip(*list(arrays.values())[:4], strict=True):
        with torch.no_grad():
            one = (user, items[None, :length], segments[None, :length])
            hidden = decoder(*(torch.from_numpy(array) for array in one))
        rows.append(hidden[0, -1].numpy())
    return np.array(rows)


@st.composite
def wrong_in_one_or_two_ways(draw: st.DrawFn) -> Raw:
    """A right request, changed: numbers, shapes, types, inputs left out or sent twice."""
    items = draw(st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=MAX_LENGTH - 1))
    raw = plain(items, user=draw(st.integers(0, NUM_USERS)), excluded=draw(st.lists(st.integers(0, 300), max_size=5)))
    for change in draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=2)):
        name = draw(st.sampled_from(sorted(raw.arrays)))
        raw = change(draw, raw, name)
    return raw


def another_number(draw: st.DrawFn, raw: Raw, name: str) -> Raw:
    array = raw.arrays[name].copy()
    if array.size and array.dtype == np.int64:
        value = draw(st.sampled_from(ODD) | st.integers(-(2**63), 2**63 - 1))
        array.flat[draw(st.integers(0, array.size - 1))] = value
    return with_array(raw, name, array)


def another_type(draw: st.DrawFn, raw: Raw, name: str) -> Raw:
    return with_array(raw, name, raw.arrays[name].astype(draw(st.sampled_from(sorted(NAMES)))))


def another_shape(draw: st.DrawFn, raw: Raw, name: str) -> Raw:
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, MAX_LENGTH, MAX_LENGTH + 1, 300]), max_size=3))
    return with_array(raw, name, np.ones(shape, dtype=raw.arrays[name].dtype))


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
    another_number, another_number, another_type, another_shape, a_shape_that_lies, an_input_less, an_input_twice,
    an_input_more,
]  # fmt: skip


@pytest.fixture(scope="module")
def ask(served: Served) -> Iterator[Ask]:
    """Sends one request; gives the outputs by name, or raises grpc.RpcError."""
    with grpc.insecure_channel(served.server.url, [("grpc.max_receive_message_length", -1)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def send(raw: Raw) -> dict[str, NDArray[Any]]:
            answer = stub.ModelInfer(raw.message(), timeout=TIMEOUT_S)
            dtypes = {"INT64": np.int64, "FP32": np.float32}
            return {
                output.name: np.frombuffer(content, dtypes[output.datatype]).reshape(list(output.shape))
                for output, content in zip(answer.outputs, answer.raw_output_contents, strict=True)
            }

        yield send


KNOWN = plain([5, 9, 31, 200], user=7, excluded=[5])


ANY_REQUEST = given(raw=wrong_in_one_or_two_ways())
QUICK = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONG = settings(QUICK, max_examples=10_000, derandomize=False)


def check_answer_or_refusal(ask: Ask, export: Export, raw: Raw) -> None:
    expected = ask(KNOWN)
    if is_right(raw):
        found = ask(raw)[signature.INTERESTS][:, 0]
        np.testing.assert_allclose(found, eager_answer(export.checkpoint.decoder, raw.arrays), rtol=0, atol=TOLERANCE)
    else:
        with pytest.raises(grpc.RpcError) as refusal:
            ask(raw)
        assert refusal.value.code() in REFUSALS
        assert refusal.value.details()
    assert_serves_as_before(ask, expected)


def assert_serves_as_before(ask: Ask, expected: dict[str, NDArray[Any]]) -> None:
    again = ask(KNOWN)
    assert all(np.array_equal(again[name], array) for name, array in expected.items())


@QUICK
@ANY_REQUEST
def test_what_is_wrong_is_refused_and_what_is_right_gets_its_own_answer(ask: Ask, export: Export, raw: Raw) -> None:
    check_answer_or_refusal(ask, export, raw)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@LONG
@ANY_REQUEST
def test_so_are_ten_thousand_others(ask: Ask, export: Export, raw: Raw) -> None:
    check_answer_or_refusal(ask, export, raw)


def wide(width: int, *, length: int = 4) -> Raw:
    raw = plain([1] * width)
    return with_array(raw, signature.LENGTHS, np.array([[length]]))


def cached(change: Callable[[NDArray[Any]], NDArray[Any]], *, length: int = 4) -> Raw:
    """A decode of one token on a cache of four tokens, as ``change`` makes it."""
    raw = with_array(plain([9]), signature.LENGTHS, np.array([[length]]))
    cache = np.zeros((1, 1, 2, 2, 4, 8), dtype=np.float32)
    return replace(with_array(raw, signature.PAST_KEY_VALUES, change(cache)), model="decode")


@pytest.mark.parametrize(
    "raw",
    [
        wide(10**6),
        wide(10**6, length=10**6),
        wide(MAX_LENGTH + 1),
        with_array(KNOWN, signature.LENGTHS, np.array([[0]])),
        with_array(KNOWN, signature.LENGTHS, np.array([[-3]])),
        with_array(KNOWN, signature.LENGTHS, np.array([[5]])),
        with_array(KNOWN, signature.USER_IDS, np.array([[-1]])),
        with_array(KNOWN, signature.USER_IDS, np.array([[NUM_USERS + 1]])),
        with_array(KNOWN, signature.INPUT_IDS, np.array([[5, 9, 31, NUM_ITEMS + 1]])),
        with_array(KNOWN, signature.INPUT_IDS, np.array([[5, -1, 31, 200]])),
        with_array(KNOWN, signature.EXCLUDED_IDS, np.array([[-1]])),
        Raw({name: array[:0] for name, array in KNOWN.arrays.items()}),
        Raw({name: np.repeat(array, 257, axis=0) for name, array in KNOWN.arrays.items()}),
        Raw({}),
        without(KNOWN, signature.SEGMENT_IDS),
        replace(KNOWN, model="decode"),
        cached(lambda cache: cache[..., :3]),
        cached(lambda cache: cache.astype(np.float64)),
        cached(lambda cache: cache, length=5),
        cached(lambda cache: cache, length=-1),
    ],
    ids=[
        "a million items", "a million items that count", "one column too many", "no length", "a negative length",
        "a length beyond the width", "user -1", "a user too many", "an item too many", "item -1", "exclusion -1",
        "no row", "a row too many", "no input", "an input less", "no cache", "a narrow cache", "a cache of doubles",
        "more tokens than are cached", "fewer than none",
    ],
)  # fmt: skip
def test_it_is_refused_and_the_server_goes_on(ask: Ask, raw: Raw) -> None:
    expected = ask(KNOWN)
    with pytest.raises(grpc.RpcError) as refusal:
        ask(raw)
    assert refusal.value.code() in REFUSALS
    assert_serves_as_before(ask, expected)


def test_duplicate_items_are_a_history_like_any_other(ask: Ask, export: Export) -> None:
    raw = plain([7] * (MAX_LENGTH - 1), excluded=[7, 7, 7])
    found = ask(raw)
    expected = eager_answer(export.checkpoint.decoder, raw.arrays)
    np.testing.assert_allclose(found[signature.INTERESTS][:, 0], expected, rtol=0, atol=TOLERANCE)
    assert found[signature.GENERATED_IDS].item() != 7


def test_a_cache_that_is_not_finite_spoils_no_answer_but_its_own(
    ask: Ask,
) -> None:
    for value in (np.nan, np.inf):
        good, bad = cached(lambda cache: cache), cached(lambda cache, value=value: cache + value)
        both = replace(
            good, arrays={name: np.concatenate([array, bad.arrays[name]]) for name, array in good.arrays.items()}
        )
        found, expected = ask(both)[signature.INTEREST], ask(good)[signature.INTEREST]
        np.testing.assert_allclose(found[:1], expected, rtol=0, atol=TOLERANCE)
        assert np.isnan(found[1]).all()
