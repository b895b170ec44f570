"""The wire of ``recall_engine`` without a wire: what one end writes the other end reads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_model import ToyModel

from recgpt.data.ids import IdMap
from recgpt.errors import QuotaError, RequestError, ShortfallError
from recgpt.one_hop.answering import answer_all
from recgpt.one_hop.engine_codec import EngineCodec, id_dtype
from recgpt.one_hop.graph_codec import GraphCodec
from recgpt.one_hop.remote import RemoteRecall, marked, typed
from recgpt.one_hop.width import MAX_WIDTH
from recgpt.signature import GraphSpec
from recgpt.types import MERGES, RecallRequest

INT_IDS = st.integers(-(2**63), 2**63 - 1)
ITEM_IDS = {"int64": INT_IDS, "string": st.text(max_size=5)}


@st.composite
def batches(draw: st.DrawFn) -> tuple[EngineCodec, list[RecallRequest]]:
    """Requests of any kind, ids of both types, empty histories, quotas of any number."""
    items, users = draw(st.sampled_from(["int64", "string"])), draw(st.sampled_from(["int64", "string"]))

    @st.composite
    def one(draw: st.DrawFn) -> RecallRequest:
        history = draw(st.lists(ITEM_IDS[items], max_size=5))
        quotas = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
        return RecallRequest(
            history=history,
            user_id=draw(st.none() | ITEM_IDS[users]),
            segments=draw(st.none() | st.lists(st.integers(0, 1), min_size=len(history), max_size=len(history))),
            k=sum(quotas),
            quotas=draw(st.sampled_from([None, tuple(quotas)])),
            merge=draw(st.sampled_from(MERGES)),
            filter_seen=draw(st.booleans()),
            blocked=draw(st.lists(ITEM_IDS[items], max_size=3)),
            allowed=draw(st.none() | st.lists(ITEM_IDS[items], min_size=1, max_size=3)),
        )

    return EngineCodec(item_dtype=items, user_dtype=users), draw(st.lists(one(), max_size=6))


@given(batches())
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_the_server_reads_what_the_client_wrote(case: tuple[EngineCodec, list[RecallRequest]]) -> None:
    codec, requests = case
    read = {
        place: request
        for call in codec.plan(requests).calls
        for place, request in zip(call.places, codec.requests(call.feeds), strict=True)
    }
    assert [read[place] for place in range(len(requests))] == requests


@pytest.fixture
def served() -> tuple[ToyModel, RemoteRecall, EngineCodec]:
    """The toy model behind both ends of the wire."""
    model = ToyModel(seed=6)
    recaller, codec = model.recaller(), EngineCodec(item_dtype="int64", user_dtype="int64")

    def infer(_: GraphSpec, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        [result] = answer_all(recaller, codec, [feeds])
        if isinstance(result, RequestError):
            raise RequestError(f"the server says: {marked(result)}; do something")
        assert isinstance(result, dict)
        return result

    return model, RemoteRecall(codec, infer), codec


def test_answers_come_back_whole(served: tuple[ToyModel, RemoteRecall, EngineCodec]) -> None:
    model, remote, _ = served
    requests = [
        RecallRequest(history=[10, 20, 999], user_id=100, k=5, quotas=(3, 2), blocked=[30, 31]),
        RecallRequest(history=[], k=3, allowed=[50, 60, 70, 71]),
        RecallRequest(history=["10", 2**65, 40], segments=[0, 0, 1], user_id="x", k=4, merge="probability"),
        RecallRequest(history=[10] * 20, k=2, filter_seen=False, blocked=["a", 2**64, 20]),
    ]
    expected = model.recaller().recall_many(requests)
    for one, other in zip(remote.recall_many(requests), expected, strict=True):
        plain, wanted = (dataclasses.asdict(answer) for answer in (one, other))
        for name in ("scores", "steps"):
            assert plain.pop(name).tolist() == wanted.pop(name).tolist()
        del plain["timings"], wanted["timings"]
        assert plain == wanted
        assert one.timings.total_ns >= one.timings.interests_ns > 0


def test_errors_cross_the_wire_as_what_they_are(served: tuple[ToyModel, RemoteRecall, EngineCodec]) -> None:
    _, remote, _ = served
    with pytest.raises(ShortfallError, match="k = 30") as caught:
        remote.recall_many([RecallRequest(history=[10, 20], k=30)])
    assert (caught.value.requested, caught.value.available) == (30, 28)
    with pytest.raises(QuotaError, match="9 quotas"):
        remote.recall_many([RecallRequest(history=[10, 20], k=9, quotas=[1] * 9)])
    assert typed(plain := RequestError("anything")) is plain


def test_a_callers_error_is_its_own() -> None:
    model, codec = ToyModel(seed=6), EngineCodec(item_dtype="int64", user_dtype="int64")
    good = [RecallRequest(history=[10 * row], k=3) for row in (1, 2, 3)]
    short, unreadable = codec.feeds([RecallRequest(history=[10], k=99)]), {"history": np.zeros((1, 2), dtype=np.int64)}
    results = answer_all(model.recaller(), codec, [codec.feeds(good[:2]), short, unreadable, codec.feeds(good[2:])])
    assert isinstance(results[1], ShortfallError)
    assert isinstance(results[2], RequestError)
    found = [results[0]["item_ids"][0], results[0]["item_ids"][1], results[3]["item_ids"][0]]
    expected = [answer.item_ids for answer in model.recaller().recall_many(good)]
    assert [tuple(row.tolist()) for row in found] == expected


@pytest.mark.parametrize(
    ("name", "array", "what"),
    [
        ("history", np.zeros(3, dtype=np.int64), "history is int64 of shape"),
        ("history", np.zeros((1, 2), dtype=np.float32), "history is float32"),
        ("lengths", np.zeros((2, 1), dtype=np.int64), "lengths is int64 of shape"),
        ("k", np.zeros((1, 2), dtype=np.int64), "k is int64 of shape"),
        ("filter_seen", np.zeros((1, 1), dtype=np.int64), "filter_seen is int64"),
        ("merge", np.zeros((1, 1), dtype=np.int64), "merge is int64"),
    ],
)
def test_arrays_of_another_shape_or_type_are_named(name: str, array: np.ndarray, what: str) -> None:
    codec = EngineCodec(item_dtype="int64", user_dtype="int64")
    feeds = codec.feeds([RecallRequest(history=[1, 2])])
    with pytest.raises(RequestError, match=what):
        codec.requests(feeds | {name: array})
    with pytest.raises(RequestError, match=r"\['k'\] are missing"):
        codec.requests({other: value for other, value in feeds.items() if other != "k"})


@pytest.mark.parametrize(
    ("name", "most"), [("history", MAX_WIDTH), ("blocked", MAX_WIDTH + 30), ("allowed", MAX_WIDTH + 30)]
)
def test_both_ends_take_as_many_ids_as_may_be_and_refuse_one_more(name: str, most: int) -> None:
    codec = EngineCodec(item_dtype="int64", user_dtype="int64", num_items=30)
    full, one_more = (RecallRequest(**{"history": [1], "k": 3} | {name: range(number)}) for number in (most, most + 1))
    [call] = codec.plan([full]).calls
    assert codec.requests(call.feeds) == [full]
    with pytest.raises(RequestError, match=f"{name} of {most + 1} values: expected at most {most};"):
        codec.plan([full, one_more])
    with pytest.raises(RequestError, match=f"{name} of {most + 1} values: expected at most {most};"):
        codec.requests(call.feeds | {name: np.ones((1, most + 1), dtype=np.int64)})


def test_so_they_do_with_quotas_and_segments() -> None:
    codec = EngineCodec(item_dtype="int64", user_dtype="int64")
    many = MAX_WIDTH + 1
    with pytest.raises(RequestError, match="quotas of 65537 values"):
        codec.plan([RecallRequest(history=[1], k=many, quotas=[1] * many)])
    feeds = codec.feeds([RecallRequest(history=[1], segments=[0], k=2, quotas=[1, 1])])
    for name in ("quotas", "segment_ids"):
        with pytest.raises(RequestError, match=f"{name} of 65537 values"):
            codec.requests(feeds | {name: np.ones((1, many), dtype=np.int64)})


def test_without_the_catalogues_size_the_server_says_how_many_ids_of_a_filter_are_too_many() -> None:
    codec = EngineCodec(item_dtype="int64", user_dtype="int64")
    request = RecallRequest(history=[1], blocked=range(2 * MAX_WIDTH))
    assert codec.requests(codec.feeds([request])) == [request]


def test_the_type_of_ids_on_the_wire() -> None:
    found = [id_dtype(IdMap(ids)) for ids in ([1, -5], ["1", "x"], [2**63 - 1, 0], [2**63, 0], [])]
    assert found == ["int64", "string", "int64", None, "int64"]


def test_popular_items_are_told_without_asking_a_server() -> None:
    model = ToyModel(seed=1)
    codec = GraphCodec(model.spec, model.catalogue(), recalls=(1, 2), prompt_tuned=True)
    plan = codec.plan([RecallRequest(history=[], k=7, blocked=[10])])
    assert plan.calls == []
    [answer] = plan.finish([])
    assert answer.item_ids == model.recaller().recall([], k=7, blocked=[10]).item_ids
