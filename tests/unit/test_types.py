from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from recgpt.types import Candidates, ColdStart, RecallRequest, Timings


def test_a_request_holds_plain_values_whatever_it_was_given() -> None:
    request = RecallRequest(
        history=np.array([3, 4], dtype=np.int32),
        user_id=np.int64(7),
        segments=np.array([0, 1]),
        k=np.int64(5),
        quotas=np.array([3, 2]),
    )
    assert request == RecallRequest(history=(3, 4), user_id=7, segments=(0, 1), k=5, quotas=(3, 2))
    values = [*request.history, request.user_id, *(request.segments or ()), request.k, *(request.quotas or ())]
    assert {type(value) for value in values} == {int}


def test_a_request_does_not_change_with_the_list_it_was_made_of() -> None:
    history = [1, 2]
    request = RecallRequest(history=history)
    history.append(3)
    assert request.history == (1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.k = 3  # type: ignore[misc]


def test_strings_and_ints_may_be_mixed_in_a_history_since_unknown_ids_are_dropped() -> None:
    assert RecallRequest(history=["a", 5, np.str_("b")]).history == ("a", 5, "b")


def test_the_length_of_an_answer_is_its_number_of_items() -> None:
    candidates = Candidates(
        item_ids=(5, 6, 7),
        scores=np.zeros(3, dtype=np.float32),
        steps=np.ones(3, dtype=np.int64),
        cold_start=ColdStart(shared_user=True, num_unknown_items=0, popular=False),
        timings=Timings(encode_ns=1, interests_ns=1, search_ns=1, merge_ns=1, total_ns=4),
    )
    assert len(candidates) == 3
    assert "timings" not in repr(candidates)
