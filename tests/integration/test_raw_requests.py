"""Requests that no client of ours would send, on the raw gRPC interface of a real server.

Each gets an error, or the answer that the eager model gives to it; and the server then answers a known request as it
did before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from raw_requests import (
    LONG,
    QUICK,
    REFUSALS,
    Arrays,
    Ask,
    Raw,
    asking,
    assert_serves_as_before,
    changed,
    with_array,
    without,
)
from tiny_model import MAX_LENGTH, NUM_ITEMS, NUM_USERS, Export, Served

from recgpt import signature
from recgpt.model.decoder import Decoder

# float32 sums in another order, of values of about 1.
TOLERANCE = 1e-5
# The scan fills the catalogue up to blocks of 64 columns; who excludes one of these excludes nothing.
LAST_EXCLUDED = -(-(NUM_ITEMS + 1) // 64) * 64 - 1


def plain(items: list[int], *, user: int = 3, excluded: list[int] | None = None) -> Raw:
    """A request for interests that is right."""
    return Raw(
        {
            signature.USER_IDS: np.array([[user]]),
            signature.INPUT_IDS: np.array([items]),
            signature.SEGMENT_IDS: np.zeros((1, len(items)), dtype=np.int64),
            signature.LENGTHS: np.array([[len(items)]]),
            signature.EXCLUDED_IDS: np.array([excluded or [0]]),
        }
    )


def recalling(raw: Raw, quotas: tuple[int, int] = (9, 1)) -> Raw:
    """The same request for items."""
    return replace(with_array(raw, signature.QUOTAS, np.array([quotas])), model="recall_2")


def is_right(raw: Raw) -> bool:
    """Whether the server promises an answer: what docs/serving.md says, written once more."""
    arrays, declared = raw.arrays, dict(raw.shapes)
    if set(arrays) != {tensor.name for tensor in signature.graph_spec(raw.model).inputs} or raw.twice:
        return False
    user, items, segments, lengths, excluded, *quotas = arrays.values()
    rows, width = items.shape if items.ndim == 2 else (0, 0)
    # Triton knows the number of rows from the first input by name, in 32 bits, where 0 says nothing.
    first, *others = declared.pop(signature.EXCLUDED_IDS, excluded.shape) or (0,)
    read = (first % 2**32 or rows, *others)
    # So it reads rows where none were declared; not for recall_2, which counts rows by further inputs.
    is_read = len(read) == 2 and read[0] == rows and read[1] * rows == excluded.size
    shapes = [is_read and not (quotas and first % 2**32 == 0)]
    shapes += [user.shape == (rows, 1), segments.shape == (rows, width), lengths.shape == (rows, 1), not declared]
    shapes += [array.shape == (rows, 2) for array in quotas]
    shapes += [1 <= rows <= 256, 1 <= width <= MAX_LENGTH]
    if not all(shapes) or any(array.dtype != np.int64 for array in arrays.values()):
        return False
    ranges = [(user, 0, NUM_USERS), (items, 0, NUM_ITEMS), (segments, 0, 1), (excluded, 0, LAST_EXCLUDED)]
    ranges += [(array, 0, 2**31) for array in quotas]
    ranges.append((lengths, 1, min(width, MAX_LENGTH - 1)))
    return all(((array >= low) & (array <= high)).all() for array, low, high in ranges)


def eager_interests(decoder: Decoder, arrays: Arrays) -> NDArray[Any]:
    """Both interests (B, 2, D) by recomputing each row by itself, without padding."""
    rows = []
    for user, items, segments, (length,), excluded in zip(*list(arrays.values())[:5], strict=True):
        items, segments = items[:length], segments[:length]
        first = eager_interest(decoder, user, items, segments)
        generated = ranked(decoder, first, excluded)[:1]
        second = eager_interest(decoder, user, np.append(items, generated), np.append(segments, 1))
        rows.append([first, second])
    return np.array(rows)


def eager_interest(decoder: Decoder, user: NDArray[Any], items: NDArray[Any], segments: NDArray[Any]) -> NDArray[Any]:
    with torch.no_grad():
        tokens = (user, items[None], segments[None])
        interest: NDArray[Any] = decoder(*(torch.from_numpy(array) for array in tokens))[0, -1].numpy()
    return interest


def ranked(decoder: Decoder, interest: NDArray[Any], excluded: NDArray[Any]) -> NDArray[Any]:
    """Rows of all items that are not excluded, the best first."""
    scores = decoder.item_matrix.detach().numpy() @ interest
    scores[[0, *excluded[excluded <= NUM_ITEMS]]] = -np.inf
    order: NDArray[Any] = np.argsort(-scores, kind="stable")
    return order[np.isfinite(scores[order])]


def as_read(raw: Raw) -> Raw:
    """The same request with exclusions of the shape that Triton reads: as many rows as the others have."""
    rows, excluded = len(raw.arrays[signature.USER_IDS]), raw.arrays[signature.EXCLUDED_IDS]
    return with_array(raw, signature.EXCLUDED_IDS, excluded.reshape(rows, excluded.size // rows))


def check_interests(decoder: Decoder, raw: Raw, found: Arrays) -> None:
    expected = eager_interests(decoder, raw.arrays)
    np.testing.assert_allclose(found[signature.INTERESTS], expected, rtol=0, atol=TOLERANCE)


def check_items(decoder: Decoder, raw: Raw, found: Arrays) -> None:
    """The lists of the two interests, of the lengths that were asked for, one behind the other."""
    interests = eager_interests(decoder, raw.arrays)
    for row, (excluded, quotas) in enumerate(
        zip(raw.arrays[signature.EXCLUDED_IDS], raw.arrays[signature.QUOTAS], strict=True)
    ):
        expected: list[int] = []
        for interest, quota in zip(interests[row], quotas, strict=True):
            expected += ranked(decoder, interest, np.append(excluded, expected).astype(int))[:quota].tolist()
        rows = found[signature.RECALLED_IDS][row]
        assert rows[rows > 0].tolist() == expected[: len(rows)]


@st.composite
def wrong_in_one_or_two_ways(draw: st.DrawFn) -> Raw:
    """A right request, changed: numbers, shapes, types, inputs left out or sent twice."""
    items = draw(st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=MAX_LENGTH - 1))
    raw = plain(items, user=draw(st.integers(0, NUM_USERS)), excluded=draw(st.lists(st.integers(0, 300), max_size=5)))
    return changed(draw, draw(st.sampled_from([raw, recalling(raw, (draw(st.integers(1, 20)), 3))])))


@pytest.fixture(scope="module")
def ask(served: Served) -> Iterator[Ask]:
    with asking(served.server.url) as ask:
        yield ask


KNOWN = plain([5, 9, 31, 200], user=7, excluded=[5])
ANY_REQUEST = given(raw=wrong_in_one_or_two_ways())


def check_answer_or_refusal(ask: Ask, export: Export, raw: Raw) -> None:
    known = KNOWN if raw.model == KNOWN.model else recalling(KNOWN)
    expected = ask(known)
    if is_right(raw):
        check = check_interests if raw.model == KNOWN.model else check_items
        check(export.checkpoint.decoder, as_read(raw), ask(raw))
    else:
        with pytest.raises(grpc.RpcError) as refusal:
            ask(raw)
        assert refusal.value.code() in REFUSALS
        assert refusal.value.details()
    assert_serves_as_before(ask, known, expected)


EMPTY = with_array(plain([1]), signature.EXCLUDED_IDS, np.zeros((0, 0), dtype=np.int64))
WITHOUT_ROWS = replace(
    with_array(plain([1]), signature.EXCLUDED_IDS, np.array(1)), shapes={signature.EXCLUDED_IDS: [-(2**63), 1]}
)


@QUICK
@example(raw=EMPTY)
@example(raw=WITHOUT_ROWS)
@example(raw=recalling(WITHOUT_ROWS))
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
        recalling(KNOWN, (-1, 3)),
        recalling(KNOWN, (2**40, 3)),
        cached(lambda cache: cache[..., :3]),
        cached(lambda cache: cache.astype(np.float64)),
        cached(lambda cache: cache, length=5),
        cached(lambda cache: cache, length=-1),
    ],
    ids=[
        "a million items", "a million items that count", "one column too many", "no length", "a negative length",
        "a length beyond the width", "user -1", "a user too many", "an item too many", "item -1", "exclusion -1",
        "no row", "a row too many", "no input", "an input less", "no cache", "a negative quota",
        "a quota beyond all catalogues", "a narrow cache", "a cache of doubles", "more tokens than are cached",
        "fewer than none",
    ],
)  # fmt: skip
def test_it_is_refused_and_the_server_goes_on(ask: Ask, raw: Raw) -> None:
    expected = ask(KNOWN)
    with pytest.raises(grpc.RpcError) as refusal:
        ask(raw)
    assert refusal.value.code() in REFUSALS
    assert_serves_as_before(ask, KNOWN, expected)


def test_duplicate_items_are_a_history_like_any_other(ask: Ask, export: Export) -> None:
    raw = plain([7] * (MAX_LENGTH - 1), excluded=[7, 7, 7])
    found = ask(raw)
    check_interests(export.checkpoint.decoder, raw, found)
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
