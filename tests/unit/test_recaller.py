from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_model import ToyBackend, ToyModel, recall_by_hand

from recgpt.backends.base import InterestsOutput, Tokens
from recgpt.data.ids import IdMap
from recgpt.errors import BundleMismatchError, ConfigError, QuotaError, RequestError, ShortfallError
from recgpt.recall.core import PretrainedOnlyWarning
from recgpt.recall.index import ItemIndex
from recgpt.recall.index_ann import IndexKind
from recgpt.recall.layout import Layout, index_kind_for, layout_of
from recgpt.recall.merge import default_quotas
from recgpt.recall.recaller import Recaller
from recgpt.types import MERGES, Candidates, RecallRequest

PROPERTIES = settings(max_examples=150, deadline=None, derandomize=True, database=None)
# Weighted sums are rounded to float32; the toy model's own scores are whole numbers.
ROUNDING = 1e-6
FUSED = [(), (2, 6), (1, 2, 3, 4, 5, 6)]


def quotas_of(k: int, num_interests: int) -> st.SearchStrategy[tuple[int, ...]]:
    """All ways to split k into that many positive parts."""
    if num_interests == 1:
        return st.just((k,))
    cuts = st.sets(st.integers(1, k - 1), min_size=num_interests - 1, max_size=num_interests - 1)
    return cuts.map(lambda places: tuple(np.diff([0, *sorted(places), k]).tolist()))


@st.composite
def requests_for(draw: st.DrawFn, model: ToyModel, *, strings: bool) -> RecallRequest:
    """Any request the catalogue can meet: unknown items and users, repeats, more history than the window holds."""
    spec = model.spec
    rows = draw(st.lists(st.integers(-3, spec.num_items), max_size=2 * spec.max_length))
    history = [f"i{row}" if strings else 10 * row for row in rows]
    user = draw(st.none() | st.integers(-1, spec.num_users))
    filter_seen = draw(st.booleans())
    seen = {row for row in rows if row > 0} if filter_seen else set()
    ids = st.integers(-3, spec.num_items).map(lambda row: f"i{row}" if strings else 10 * row)
    # So few are taken away that six interests always find something to generate.
    blocked = draw(st.just([]) | st.lists(ids, max_size=4))
    allowed = draw(st.none() | st.lists(ids, min_size=1, max_size=3 * spec.num_items))
    shown = set(range(1, spec.num_items + 1)) - seen - rows_of(blocked)
    if allowed is not None and len(shown & rows_of(allowed)):
        shown &= rows_of(allowed)
    else:
        allowed = None
    available = len(shown)
    num_interests = draw(st.integers(1, min(6, available)))
    k = draw(st.integers(num_interests, available))
    return RecallRequest(
        history=history,
        user_id=user if user is None else f"u{user}" if strings else 100 * user,
        segments=draw(st.none() | st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows))),
        k=k,
        quotas=draw(st.none() | quotas_of(k, num_interests)),
        merge=draw(st.sampled_from(MERGES)),
        filter_seen=filter_seen,
        blocked=blocked,
        allowed=allowed,
    )


def rows_of(ids: list[int | str]) -> set[int]:
    return {int(item[1:]) if isinstance(item, str) else item // 10 for item in ids}


@st.composite
def cases(draw: st.DrawFn, *, max_requests: int) -> tuple[ToyModel, Recaller, list[RecallRequest]]:
    model = ToyModel(seed=draw(st.integers(0, 10_000)), num_items=draw(st.integers(17, 40)))
    strings = draw(st.booleans())
    layout = draw(st.sampled_from(Layout))
    recaller = model.recaller(fused=draw(st.sampled_from(FUSED)), strings=strings, layout=layout)
    requests = draw(st.lists(requests_for(model, strings=strings), min_size=1, max_size=max_requests))
    return model, recaller, requests


def assert_is(candidates: Candidates, model: ToyModel, recaller: Recaller, request: RecallRequest) -> None:
    quotas = request.quotas or default_quotas(request.k, prompt_tuned=True)
    expected = recall_by_hand(model, recaller.catalogue, request, quotas)
    assert list(candidates.item_ids) == expected.item_ids
    assert candidates.scores.tolist() == pytest.approx(expected.scores, rel=ROUNDING)
    assert candidates.steps.tolist() == expected.steps
    assert list(candidates.generated_ids) == expected.generated_ids
    assert dataclasses.astuple(candidates.cold_start) == (
        expected.shared_user,
        expected.num_unknown_items,
        expected.popular,
    )
    assert candidates.num_unknown_filters == expected.num_unknown_filters


@given(cases(max_requests=1))
@PROPERTIES
def test_recall_is_what_a_person_would_do_by_hand(case: tuple[ToyModel, Recaller, list[RecallRequest]]) -> None:
    model, recaller, (request,) = case
    assert_is(recaller.recall_many([request])[0], model, recaller, request)


@given(cases(max_requests=1))
@PROPERTIES
def test_exactly_k_distinct_items_none_seen_none_padding_quotas_kept(
    case: tuple[ToyModel, Recaller, list[RecallRequest]],
) -> None:
    _, recaller, (request,) = case
    candidates = recaller.recall_many([request])[0]
    assert len(candidates) == request.k == len(set(candidates.item_ids))
    assert set(candidates.item_ids) <= set(recaller.catalogue.item_ids.ids)
    if request.filter_seen:
        segments = request.segments or [0] * len(request.history)
        seen = {item for item, segment in zip(request.history, segments, strict=True) if segment == 0}
        assert not set(candidates.item_ids) & seen
        assert not set(candidates.generated_ids) & seen
    assert len(set(candidates.generated_ids)) == len(candidates.generated_ids)
    assert not request.blocked & {*candidates.item_ids, *candidates.generated_ids}
    if request.allowed is not None:
        assert set(candidates.item_ids) <= request.allowed
    if request.merge != "quotas":
        assert (np.diff(candidates.scores) <= 0).all()
    elif not candidates.cold_start.popular:
        quotas = request.quotas or default_quotas(request.k, prompt_tuned=True)
        assert np.repeat(np.arange(len(quotas)) + 1, quotas).tolist() == candidates.steps.tolist()
    if not candidates.cold_start.popular:
        assert len(candidates.generated_ids) == len(request.quotas or default_quotas(request.k, prompt_tuned=True)) - 1
    for step in set(candidates.steps.tolist()):
        part = candidates.scores[candidates.steps == step]
        assert (np.diff(part) <= 0).all()
    assert (candidates.scores.dtype, candidates.steps.dtype) == (np.float32, np.int64)


@given(cases(max_requests=6))
@PROPERTIES
def test_a_mixed_batch_gives_each_request_its_own_answer_in_any_order(
    case: tuple[ToyModel, Recaller, list[RecallRequest]],
) -> None:
    model, recaller, requests = case
    for request, candidates in zip(requests, recaller.recall_many(requests), strict=True):
        assert_is(candidates, model, recaller, request)
    backwards = recaller.recall_many(reversed(requests))
    for request, candidates in zip(reversed(requests), backwards, strict=True):
        assert_is(candidates, model, recaller, request)


@pytest.mark.parametrize("num_interests", range(1, 7))
@pytest.mark.parametrize("fused", FUSED)
def test_fused_and_stepwise_give_the_same_list(num_interests: int, fused: tuple[int, ...]) -> None:
    model = ToyModel(seed=3)
    recaller = model.recaller(fused=fused)
    quotas = [13 - num_interests, *[1] * (num_interests - 1)]
    request = RecallRequest(history=[10, 20, 70], user_id=200, k=12, quotas=quotas)
    assert_is(recaller.recall_many([request])[0], model, recaller, request)
    assert isinstance(recaller.backend, ToyBackend)
    stepwise = ["prefill", *["decode"] * (num_interests - 1)]
    assert recaller.backend.calls == ([f"interests_{num_interests}"] if num_interests in fused else stepwise)


def test_requests_of_one_number_of_interests_share_one_call() -> None:
    recaller = ToyModel().recaller()
    requests = [RecallRequest(history=[10 * row], k=4, quotas=(2, 2)) for row in range(1, 9)]
    recaller.recall_many([*requests, RecallRequest(history=[]), RecallRequest(history=[10], k=1)])
    assert isinstance(recaller.backend, ToyBackend)
    assert sorted(recaller.backend.calls) == ["interests_2", "prefill"]


def test_a_very_long_history_does_not_deepen_the_search_of_the_others() -> None:
    model = ToyModel(num_items=400)
    recaller = model.recaller()
    usual = [RecallRequest(history=[10 * row], k=3, quotas=(2, 1)) for row in (1, 2, 3)]
    long = RecallRequest(history=[10 * row for row in range(1, 301)], k=3, quotas=(2, 1))
    answers = recaller.recall_many([*usual, long])
    assert len(recaller.backend.calls) == 2
    for request, answer in zip([*usual, long], answers, strict=True):
        assert_is(answer, model, recaller, request)


def test_a_long_history_of_one_item_does_not_widen_what_a_batch_excludes(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []

    def interests(self: ToyBackend, tokens: Tokens, num_interests: int) -> InterestsOutput:
        widths.append(tokens.excluded.shape[1])
        return asked(self, tokens, num_interests)

    asked = ToyBackend.interests
    monkeypatch.setattr(ToyBackend, "interests", interests)
    requests = [RecallRequest(history=[10] * 500, k=3, quotas=(2, 1)), RecallRequest(history=[20], k=3, quotas=(2, 1))]
    ToyModel().recaller().recall_many(requests)
    assert widths == [1]


@pytest.mark.parametrize("num_blocked", [500, 520, 680], ids=["looked past", "searched among the rest", "scored"])
@pytest.mark.parametrize("merge", MERGES)
def test_many_blocked_items_are_neither_recalled_nor_generated(num_blocked: int, merge: str) -> None:
    model = ToyModel(num_items=700)
    blocked = [10 * row for row in range(1, num_blocked + 1)]
    request = RecallRequest(history=[10, 6950], k=8, quotas=(4, 2, 2), blocked=blocked, merge=merge)
    usual = RecallRequest(history=[20], k=8, quotas=(4, 2, 2))
    recaller = model.recaller()
    for asked, answer in zip((usual, request), recaller.recall_many([usual, request]), strict=True):
        if asked.merge == "quotas":
            assert_is(answer, model, recaller, asked)
    assert min(*answer.item_ids, *answer.generated_ids) > 10 * num_blocked
    assert 6950 not in answer.item_ids


def test_what_is_generated_need_not_be_allowed_and_what_is_seen_is_not_shown_though_allowed() -> None:
    model = ToyModel(seed=4)
    recaller = model.recaller()
    free = recaller.recall([10, 20], k=6, quotas=(3, 3))
    allowed = [item for item in recaller.catalogue.item_ids.ids if item not in free.generated_ids][:9]
    kept = recaller.recall([10, 20], k=6, quotas=(3, 3), allowed={*allowed, 10})
    assert kept.generated_ids == free.generated_ids
    assert set(kept.item_ids) <= set(allowed) - {10, 20}


@pytest.mark.parametrize("history", [[10], []])
def test_too_few_allowed_items_are_a_typed_shortfall(history: list[int]) -> None:
    recaller = ToyModel().recaller()
    # 30 is blocked, 777 unknown, and the history seen.
    with pytest.raises(ShortfallError, match="k = 3, but only 2 .*allowed") as caught:
        recaller.recall([10], k=3, allowed=[10, 20, 30, 40, 777], blocked=[30])
    assert (caught.value.requested, caught.value.available) == (3, 2)
    answer = recaller.recall([10], k=2, allowed=[10, 20, 30, 40, 777], blocked=[30])
    assert sorted(answer.item_ids) == [20, 40]
    assert answer.num_unknown_filters == 1
    with pytest.raises(ShortfallError, match="only 0"):
        recaller.recall(history, k=1, allowed=())


def test_blocking_all_but_k_leaves_exactly_these() -> None:
    recaller = ToyModel(num_items=20).recaller()
    blocked = {10 * row for row in range(1, 18)}
    assert sorted(recaller.recall([10], k=3, quotas=(1, 1, 1), blocked=blocked).item_ids) == [180, 190, 200]


def test_no_requests_no_answers() -> None:
    assert ToyModel().recaller().recall_many([]) == []


def test_items_older_than_the_window_are_still_seen() -> None:
    model = ToyModel(num_items=20, max_length=8)
    recaller = model.recaller()
    history = [10 * row for row in range(1, 15)]  # 14 tokens; two steps leave room for 7
    candidates = recaller.recall(history, k=6, quotas=(3, 3))
    assert sorted(candidates.item_ids) == [150, 160, 170, 180, 190, 200]
    assert set(candidates.generated_ids) <= {150, 160, 170, 180, 190, 200}


@pytest.mark.parametrize("quotas", [(4,), (2, 2), (1, 1, 1, 1)])
def test_only_the_newest_items_that_leave_room_for_the_generated_ones_reach_the_model(quotas: tuple[int, ...]) -> None:
    model = ToyModel(max_length=8)
    recaller = model.recaller(fused=())
    newest = [10 * row for row in range(10, 10 + 8 - (len(quotas) - 1))]
    older = [10, 20, 30]
    cut = recaller.recall(newest, k=4, quotas=quotas, filter_seen=False)
    full = recaller.recall(older + newest, k=4, quotas=quotas, filter_seen=False)
    assert full.item_ids == cut.item_ids
    assert full.scores.tolist() == cut.scores.tolist()


def test_an_item_that_was_only_a_prompt_stays_a_candidate() -> None:
    recaller = ToyModel(num_items=6).recaller()
    # Item 20 was passed over and taken later.
    request = RecallRequest(history=[10, 20, 30, 20], segments=[0, 1, 1, 0], k=4, quotas=(4,))
    assert sorted(recaller.recall_many([request])[0].item_ids) == [30, 40, 50, 60]


def test_segments_are_cut_and_dropped_with_their_items() -> None:
    model = ToyModel(seed=5)
    recaller = model.recaller()
    request = RecallRequest(history=[10, 999, 20, 888, 30], segments=[0, 1, 1, 0, 0], k=5, quotas=(5,))
    same = RecallRequest(history=[10, 20, 30], segments=[0, 1, 0], k=5, quotas=(5,))
    other = RecallRequest(history=[10, 20, 30], k=5, quotas=(5,))
    found, expected, without = recaller.recall_many([request, same, other])
    assert found.scores.tolist() == expected.scores.tolist() != without.scores.tolist()


@pytest.mark.parametrize("history", [[], [7, 8, "10"], np.array([], dtype=np.int64)])
def test_no_known_item_gets_the_popular_ones_and_says_so(history: list[int]) -> None:
    model = ToyModel(seed=1)
    recaller = model.recaller()
    candidates = recaller.recall(history, user_id=100, k=30)
    expected = sorted(range(1, 31), key=lambda row: (-model.popularity[row], row))
    assert candidates.item_ids == tuple(10 * row for row in expected)
    assert candidates.scores.tolist() == [model.popularity[row] for row in expected]
    assert candidates.steps.tolist() == [0] * 30
    assert candidates.generated_ids == ()
    assert dataclasses.astuple(candidates.cold_start) == (False, len(history), True)
    assert isinstance(recaller.backend, ToyBackend)
    assert recaller.backend.calls == []


def test_an_unknown_user_is_the_shared_one() -> None:
    recaller = ToyModel(seed=2).recaller()
    unknown, absent, known = (recaller.recall([10, 20], user_id=user) for user in (12345, None, 100))
    assert unknown.item_ids == absent.item_ids
    assert unknown.scores.tolist() == absent.scores.tolist() != known.scores.tolist()
    assert unknown.cold_start.shared_user
    assert absent.cold_start.shared_user
    assert not known.cold_start.shared_user


def test_ids_of_numpy_types_are_the_same_ids() -> None:
    recaller = ToyModel().recaller()
    plain = recaller.recall([10, 20], user_id=100, k=5)
    assert recaller.recall(np.array([10, 20]), user_id=np.int64(100), k=np.int64(5)).item_ids == plain.item_ids
    assert all(type(item) is int for item in plain.item_ids)
    strings = ToyModel().recaller(strings=True)
    found = strings.recall(np.array(["i1", "i2"]), user_id=np.str_("u1"), k=5)
    assert found.item_ids == tuple(f"i{item // 10}" for item in plain.item_ids)


@pytest.mark.parametrize(
    ("arguments", "available"),
    [
        ({"history": [10, 20], "k": 5}, 4),
        ({"history": [10, 20, 10, 999], "k": 5}, 4),
        ({"history": [], "k": 7}, 6),
        ({"history": [10], "k": 7, "filter_seen": False}, 6),
        ({"history": [10, 20, 30, 40, 50, 60], "k": 1}, 0),
    ],
)
def test_more_than_the_catalogue_can_give_is_a_typed_shortfall(arguments: dict[str, object], available: int) -> None:
    recaller = ToyModel(num_items=6).recaller()
    with pytest.raises(ShortfallError, match=f"k = {arguments['k']}.*{available}") as caught:
        recaller.recall(**arguments)  # type: ignore[arg-type]
    assert (caught.value.requested, caught.value.available) == (arguments["k"], available)
    if available:
        best = recaller.recall(**arguments | {"k": available})  # type: ignore[arg-type]
        assert len(best) == available


@pytest.mark.parametrize(
    "quotas",
    [(5, 4), (11,), (10, 0), (11, -1), (), "91", b"\x09\x01", (9.0, 1.0), (True, 9), 10, {9, 1}, ((9,), (1,))],
)
def test_quotas_that_do_not_fit_k_are_refused(quotas: object) -> None:
    with pytest.raises(QuotaError, match="quotas"):
        ToyModel().recaller().recall([10], k=10, quotas=quotas)  # type: ignore[arg-type]


@pytest.mark.parametrize("quotas", [np.array(10), np.array([[9, 1]]), np.array([9.0, 1.0])])
def test_quota_arrays_of_another_shape_or_type_are_refused(quotas: np.ndarray) -> None:
    with pytest.raises(QuotaError, match="quotas"):
        ToyModel().recaller().recall([10], k=10, quotas=quotas)  # type: ignore[arg-type]


def test_more_interests_than_positions_are_refused() -> None:
    recaller = ToyModel(max_length=4).recaller()
    assert len(recaller.recall([10, 20, 30], k=4, quotas=(1,) * 4)) == 4
    with pytest.raises(QuotaError, match="5 quotas.*at most 4"):
        recaller.recall([10, 20, 30], k=5, quotas=(1,) * 5)


@pytest.mark.parametrize(
    ("history", "what"),
    [
        ("10", "str"),
        (b"10", "bytes"),
        (10, "int"),
        (None, "NoneType"),
        ({10, 20}, "set"),
        ({10: 20}, "dict"),
        (iter([10]), "iterator"),
        ([10, 2.5], r"history\[1\] = 2.5 is a float"),
        ([True], r"history\[0\] = True is a bool"),
        ([10, None], r"history\[1\]"),
        ([[10, 20]], r"history\[0\].*list"),
        (np.array([[10, 20]]), r"shape \(1, 2\)"),
        (np.array(10), r"shape \(\)"),
        (np.array([1.0]), "float"),
        (np.array([True]), "bool"),
    ],
)
def test_a_history_of_the_wrong_type_or_shape_is_named(history: object, what: str) -> None:
    with pytest.raises(RequestError, match=what):
        ToyModel().recaller().recall(history)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"user_id": [100]}, "user_id"),
        ({"k": 0}, "k = 0"),
        ({"k": -3}, "k = -3"),
        ({"k": 2.0}, "k = 2.0"),
        ({"k": "10"}, "k = '10'"),
        ({"k": True}, "k = True"),
        ({"segments": [0]}, "expected 2 values"),
        ({"segments": [0, 0, 0]}, "expected 2 values"),
        ({"segments": 0}, "expected 2 values"),
        ({"segments": np.array(0)}, "expected 2 values"),
        ({"segments": [0, 2]}, "0 .*1"),
        ({"segments": [0, -1]}, "0 .*1"),
        ({"segments": [0, True]}, "0 .*1"),
        ({"segments": [0.0, 1.0]}, "0 .*1"),
        ({"segments": "01"}, "expected 2 values"),
        ({"blocked": "10"}, "blocked is a str"),
        ({"blocked": None}, "blocked is a NoneType"),
        ({"blocked": [1.5]}, "an id of blocked = 1.5"),
        ({"allowed": 10}, "allowed is a int"),
        ({"allowed": [None]}, "an id of allowed"),
        ({"merge": "borda"}, "merge = 'borda': expected one of quotas, probability, reciprocal_rank"),
        ({"merge": None}, "merge = None: expected one of"),
    ],
)
def test_other_wrong_arguments_are_named(arguments: dict[str, object], what: str) -> None:
    with pytest.raises(RequestError, match=what):
        ToyModel().recaller().recall([10, 20], **arguments)  # type: ignore[arg-type]


def test_one_bad_request_is_refused_before_the_model_runs() -> None:
    recaller = ToyModel(num_items=6).recaller()
    with pytest.raises(ShortfallError):
        recaller.recall_many([RecallRequest(history=[10], k=2), RecallRequest(history=[10], k=6)])
    assert isinstance(recaller.backend, ToyBackend)
    assert recaller.backend.calls == []


def test_something_else_than_a_request_is_refused() -> None:
    with pytest.raises(RequestError, match="RecallRequest"):
        ToyModel().recaller().recall_many([[10, 20]])  # type: ignore[list-item]


def test_several_steps_of_a_pretrained_model_warn_whoever_asks_and_once() -> None:
    recaller = ToyModel().recaller(prompt_tuned=False)
    with pytest.warns(PretrainedOnlyWarning, match="pre-trained") as warned:
        recaller.recall_many([RecallRequest(history=[10], k=4, quotas=(2, 2))])
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recaller.recall_many([RecallRequest(history=[10], k=4, quotas=(2, 2))])


def test_a_pretrained_model_takes_one_step_by_default_without_a_warning() -> None:
    recaller = ToyModel().recaller(prompt_tuned=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        candidates = recaller.recall([10], k=10)
    assert candidates.steps.tolist() == [1] * 10


def test_the_default_of_a_tuned_model_is_nine_and_one() -> None:
    assert ToyModel().recaller().recall([10], k=10).steps.tolist() == [1] * 9 + [2]


def test_timings_add_up_to_the_total() -> None:
    timings = ToyModel().recaller().recall([10, 20]).timings
    parts = (timings.encode_ns, timings.interests_ns, timings.search_ns, timings.merge_ns)
    assert min(parts) >= 0
    assert sum(parts) == timings.total_ns > 0


def test_it_closes_its_backend_at_the_end_of_a_with_block() -> None:
    recaller = ToyModel().recaller()
    with recaller as same:
        assert same is recaller
    assert isinstance(recaller.backend, ToyBackend)
    assert recaller.backend.closed


def test_parts_of_different_models_are_refused() -> None:
    model, other = ToyModel(), ToyModel(num_items=31)
    wide, crowd = ToyModel(size=5), ToyModel(num_users=5)
    backend = ToyBackend(model, fused=())
    index = ItemIndex.build(model.items.astype(np.float32))
    for wrong_index in (other, wide):
        with pytest.raises(BundleMismatchError, match="one export"):
            Recaller(
                backend, ItemIndex.build(wrong_index.items.astype(np.float32)), model.catalogue(), prompt_tuned=True
            )
    for wrong_catalogue in (other, crowd):
        with pytest.raises(BundleMismatchError, match="one export"):
            Recaller(backend, index, wrong_catalogue.catalogue(), prompt_tuned=True)


def test_the_index_layout_asks_no_graph_for_an_item() -> None:
    model = ToyModel()
    recaller = model.recaller(fused=(1, 2), layout=Layout.INDEX)
    recaller.recall_many([RecallRequest(history=[10], k=4, quotas=(2, 1, 1)) for _ in range(3)])
    assert recaller.backend.calls == ["interests_1"] * 3


def test_the_graph_layout_recalls_by_one_graph_where_one_can() -> None:
    recaller = ToyModel().recaller(layout=Layout.GRAPH)
    plain = RecallRequest(history=[10], k=4, quotas=(2, 2))
    asked = {
        "recall_2": plain,
        "interests_2": dataclasses.replace(plain, merge="probability"),
        "interests_6": dataclasses.replace(plain, k=6, quotas=(1,) * 6),
        "recall_3": dataclasses.replace(plain, k=7, quotas=(5, 1, 1), blocked=[20, 30]),
    }
    for call, request in asked.items():
        recaller.recall_many([request])
        assert recaller.backend.calls.pop() == call
    for request in (
        dataclasses.replace(plain, k=7, quotas=(6, 1)),  # more than recall_2 gives
        dataclasses.replace(plain, allowed=[20, 30, 40, 50, 60]),
    ):
        recaller.recall_many([request])
        assert recaller.backend.calls.pop() == "interests_2"


def test_an_item_that_the_model_does_not_know_is_never_fed_back_however_well_it_scores() -> None:
    model = ToyModel(num_items=30)
    fused = model.recaller(layout=Layout.FUSED)
    recaller = model.recaller(layout=Layout.INDEX)
    # Behind the model's items stand 20 that score higher than any of them; the first list holds nothing else.
    for one in (fused, recaller):
        best = 9 * np.sign(model.interest(0, [(1, 0)])).astype(np.float32)
        one._index = ItemIndex.build(np.concatenate([model.items, np.tile(best, (20, 1))]).astype(np.float32))
        one._catalogue = dataclasses.replace(
            model.catalogue(),
            item_ids=IdMap([10 * row for row in range(1, 51)]),
            popularity=np.zeros(51, dtype=np.int64),
            num_added=20,
        )
    for quotas in ((2, 1), (1, 1, 1)):
        expected, found = (one.recall([10], k=3, quotas=quotas) for one in (fused, recaller))
        assert expected.item_ids[0] > 300
        assert (found.item_ids, found.generated_ids) == (expected.item_ids, expected.generated_ids)


def test_an_unknown_layout_is_refused_with_the_known_ones() -> None:
    assert layout_of("index") is Layout.INDEX
    with pytest.raises(ConfigError, match="'fast': expected one of fused, index, graph, auto"):
        layout_of("fast")


def test_auto_takes_what_was_measured_to_be_faster() -> None:
    def chosen(
        num_items: int,
        batch: int,
        *,
        k: int = 10,
        is_exact: bool = True,
        has_graph: bool = True,
        is_scanned: bool = False,
    ) -> Layout:
        return Layout.AUTO.choose(num_items, batch, k, is_exact=is_exact, has_graph=has_graph, is_scanned=is_scanned)

    assert chosen(12_000, 1) is Layout.GRAPH
    assert chosen(12_000, 64) is Layout.GRAPH
    assert chosen(12_000, 65) is Layout.INDEX
    assert chosen(1_000, 256) is Layout.GRAPH
    assert chosen(20_000, 64) is Layout.GRAPH
    assert chosen(12_000, 1, has_graph=False) is Layout.FUSED
    assert chosen(12_000, 31, has_graph=False) is Layout.FUSED
    assert chosen(12_000, 32, has_graph=False) is Layout.INDEX
    assert chosen(12_000, 256) is Layout.INDEX
    assert chosen(12_000, 256, is_scanned=True) is Layout.GRAPH
    assert chosen(100_000, 256, is_scanned=True) is Layout.INDEX
    assert chosen(12_000, 256, k=100) is Layout.GRAPH
    assert chosen(12_000, 256, k=100, has_graph=False) is Layout.INDEX
    assert chosen(100_000, 1) is Layout.INDEX
    assert chosen(1_000_000, 32) is Layout.INDEX
    assert chosen(1_000_000, 1, is_exact=False) is Layout.INDEX
    assert index_kind_for(200_000, 64) is IndexKind.FLAT
    assert index_kind_for(1_000_000, 64) is IndexKind.IVF_PQ
    assert index_kind_for(1_000_000, 63) is IndexKind.IVF_SQ8
