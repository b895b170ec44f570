"""Requests to ``recall_engine`` that no client of ours would send, on the raw gRPC interface of a real server.

Each gets an error, or what the engine answers in this process; and the server then answers a known request as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_requests import (
    LONG,
    QUICK,
    REFUSALS,
    TIMEOUT_S,
    Arrays,
    Ask,
    Raw,
    asking,
    assert_serves_as_before,
    changed,
    with_array,
)
from tiny_model import MAX_LENGTH, NUM_ITEMS, Served

from recgpt import RecallClient, signature
from recgpt.client_core import CallReport
from recgpt.engine import Engine
from recgpt.errors import RequestError
from recgpt.one_hop.engine_codec import MAX_ROWS, MODEL, EngineCodec
from recgpt.types import RecallRequest

TOLERANCE = 1e-5
KNOWN = RecallRequest(history=["i5", "i9", "i31", "i200"], user_id=700, k=10)

items = st.integers(-3, NUM_ITEMS + 1).map("i{}".format)
requests = st.builds(
    RecallRequest,
    history=st.lists(items, max_size=2 * MAX_LENGTH),
    user_id=st.none() | st.integers(-1, 11).map(lambda row: 100 * row),
    k=st.integers(1, 12),
    merge=st.sampled_from(["quotas", "reciprocal_rank"]),
    filter_seen=st.booleans(),
    blocked=st.sets(items, max_size=4),
    allowed=st.none() | st.sets(items, min_size=40, max_size=50),
)


@pytest.fixture(scope="module")
def engine(served_bundle: Path) -> Iterator[Engine]:
    with Engine.load(served_bundle, num_threads=1) as engine:
        yield engine


@pytest.fixture(scope="module")
def codec(engine: Engine) -> EngineCodec:
    return EngineCodec.of(engine.catalogue)


@pytest.fixture(scope="module")
def ask(served: Served) -> Iterator[Ask]:
    with asking(served.server.url) as ask:
        yield ask


def expected_answer(engine: Engine, codec: EngineCodec, raw: Raw) -> Arrays | None:
    """What the engine answers in this process; None if it, or what is said of a shape, is wrong."""
    names = {tensor.name for tensor in signature.recall_engine_spec("string", "int64").inputs}
    sizes = {array.shape[0] if array.ndim else 0 for array in raw.arrays.values()}
    if raw.twice or raw.shapes or set(raw.arrays) - names or len(sizes) != 1 or not 1 <= max(sizes) <= MAX_ROWS:
        return None
    try:
        return codec.arrays(engine.recall_many(codec.requests(raw.arrays)))
    except (RequestError, KeyError):
        return None


def check_answer_or_refusal(ask: Ask, engine: Engine, codec: EngineCodec, raw: Raw) -> None:
    known = Raw(codec.feeds([KNOWN]), model=MODEL)
    before, expected = ask(known), expected_answer(engine, codec, raw)
    if expected is None:
        with pytest.raises(grpc.RpcError) as refusal:
            ask(raw)
        assert refusal.value.code() in REFUSALS
        assert refusal.value.details()
    else:
        found = ask(raw)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose(found.pop(signature.SCORES), expected.pop(signature.SCORES), rtol=0, atol=TOLERANCE)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
    assert_serves_as_before(ask, known, before)


@pytest.mark.parametrize("name", [signature.HISTORY, signature.BLOCKED, signature.ALLOWED])
def test_a_million_ids_are_refused_and_the_server_goes_on(ask: Ask, codec: EngineCodec, name: str) -> None:
    known = Raw(codec.feeds([KNOWN]), model=MODEL)
    before = ask(known)
    many = with_array(known, name, np.full((1, 1_000_000), b"i5", dtype=object))
    with pytest.raises(grpc.RpcError, match=f"{name} of 1000000 values: expected at most") as refusal:
        ask(many)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert_serves_as_before(ask, known, before)


def test_a_client_is_told_the_same_before_anything_is_sent(served: Served, served_bundle: Path) -> None:
    reports: list[CallReport] = []
    with RecallClient(
        served.server.url, bundle=served_bundle, timeout_s=TIMEOUT_S, recall_by="engine", on_call=reports.append
    ) as client:
        for many in ({"history": ["i5"] * 1_000_000}, {"history": ["i5"], "blocked": [f"x{n}" for n in range(70_000)]}):
            with pytest.raises(RequestError, match="values: expected at most"):
                client.recall_many([KNOWN, RecallRequest(**many)])
        assert [len(report.attempts) for report in reports] == [0, 0]
        # All that the catalogue has may stand in filters, and a long history is seen to its beginning.
        answer = client.recall(["i5", *["i9"] * 60_000], k=290, quotas=(290,), allowed=client.catalogue.item_ids.ids)
        assert not {"i5", "i9"} & {*answer.item_ids}


@st.composite
def raw_requests(draw: st.DrawFn, codec: EngineCodec) -> Raw:
    """A right request, or one made wrong in one or two ways."""
    raw = Raw(codec.feeds([draw(requests)]), model=MODEL)
    return changed(draw, raw) if draw(st.integers(0, 3)) else raw


@QUICK
@given(data=st.data())
def test_what_is_wrong_is_refused_and_what_is_right_gets_its_own_answer(
    ask: Ask, engine: Engine, codec: EngineCodec, data: st.DataObject
) -> None:
    check_answer_or_refusal(ask, engine, codec, data.draw(raw_requests(codec)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@LONG
@given(data=st.data())
def test_so_are_ten_thousand_others(ask: Ask, engine: Engine, codec: EngineCodec, data: st.DataObject) -> None:
    check_answer_or_refusal(ask, engine, codec, data.draw(raw_requests(codec)))
