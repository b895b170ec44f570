"""How a server that recalls is known again: by items and scores of one request, on the toy model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from toy_model import ToyModel, ranking

from recgpt.backends.asks import TakeReserve
from recgpt.errors import ServerError, ShortfallError
from recgpt.one_hop.answering import answer_all
from recgpt.one_hop.engine_codec import EngineCodec
from recgpt.one_hop.ladder import Ladder
from recgpt.one_hop.remote import recall_steps
from recgpt.recall.fingerprint import best_recalled, recalled_distance, recalled_history
from recgpt.types import Candidates, Degraded, RecallRequest


def test_the_best_rows_are_those_of_a_full_ranking() -> None:
    model = ToyModel(seed=3, num_items=60)
    interest = np.array([1, -2, 3, 1], dtype=np.float32)
    expected = ranking(model.items, interest)[:40]
    assert list(best_recalled(interest, model.items.astype(np.float32)).items()) == expected


def test_few_items_are_all_there_is() -> None:
    matrix = np.array([[9.0], [1.0], [3.0], [3.0]], dtype=np.float32)
    assert best_recalled(np.array([2.0], dtype=np.float32), matrix) == {2: 6.0, 3: 6.0, 1: 2.0}


def test_a_long_history_is_cut_to_what_the_smallest_graph_takes() -> None:
    history = list(range(10))
    assert recalled_history(history, max_length=4, recalls=(1, 2)) == [6, 7, 8, 9]
    assert recalled_history(history, max_length=4, recalls=(2, 3)) == [7, 8, 9]
    assert recalled_history(history, max_length=4, recalls=()) == [6, 7, 8, 9]
    assert recalled_history([1, 2], max_length=4, recalls=(1,)) == [1, 2]


def test_distance_is_relative_to_the_best_score_and_infinite_for_other_items() -> None:
    expected = {"a": 10.0, "b": 8.0, "c": -2.0}
    assert recalled_distance({"b": 8.0, "a": 10.0}, expected) == 0.0
    assert recalled_distance({"a": 10.5, "b": 8.0}, expected) == pytest.approx(0.05)
    assert recalled_distance({"a": 10.0, "x": 9.0}, expected) == 0.0  # half of them may be close calls
    assert math.isinf(recalled_distance({"a": 10.0, "x": 9.0, "y": 9.0}, expected))
    assert math.isinf(recalled_distance({"x": 10.0}, expected))
    assert math.isinf(recalled_distance({}, expected))


# The ladder


class Wire:
    """The toy model behind ``recall_engine``; calls fail as ``fails`` says of their number."""

    def __init__(self, fails: Callable[[int], bool]) -> None:
        model = ToyModel(seed=6)
        self.recaller, self.catalogue = model.recaller(), model.catalogue()
        self.codec = EngineCodec(item_dtype="int64", user_dtype="int64")
        self.fails, self.num_calls, self.num_reserves = fails, 0, 0
        self.ladder = Ladder(self.catalogue, prompt_tuned=True, window=model.spec.max_length, has_single=True)

    def recall(self, requests: list[RecallRequest], ladder: Ladder | None) -> list[Candidates]:
        def infer(graph, feeds):
            self.num_calls += 1
            if self.fails(self.num_calls):
                raise ServerError(f"failure {self.num_calls}")
            [result] = answer_all(self.recaller, self.codec, [feeds])
            return result
            yield  # a generator that asks nothing

        steps = recall_steps(self.codec, infer, requests, ladder=ladder)
        try:
            while True:
                assert isinstance(next(steps), TakeReserve)
                self.num_reserves += 1
        except StopIteration as end:
            return end.value


SEVERAL = RecallRequest(history=[10, 20, 40], user_id=100, k=6, quotas=(4, 2), blocked=[50])
DEFAULT = replace(SEVERAL, quotas=None)  # two interests by default
SINGLE = replace(SEVERAL, quotas=(6,))
NOBODY = RecallRequest(history=[7], k=3)


def facts(one: Candidates) -> tuple[object, ...]:
    return one.item_ids, one.steps.tolist(), one.scores.tolist(), one.cold_start, one.num_unknown_filters


def test_without_a_ladder_a_failure_is_an_error() -> None:
    wire = Wire(lambda number: True)
    with pytest.raises(ServerError, match="failure 1"):
        wire.recall([SEVERAL], None)
    assert wire.num_calls == 1


def test_several_interests_become_one_and_the_rest_popular_items() -> None:
    wire = Wire(lambda number: number == 1)
    requests = [SEVERAL, replace(SINGLE, quotas=[6])]
    found = wire.recall(requests, wire.ladder)
    (alone,) = wire.recaller.recall_many([SINGLE])
    assert facts(found[0]) == facts(alone)
    assert [one.degraded for one in found] == [
        Degraded(rung="fewer_interests", reason="failure 1"),
        Degraded(rung="popular", reason="failure 1"),
    ]
    popular = [10 * row for row in sorted(range(1, 31), key=lambda row: (-wire.catalogue.popularity[row], row))]
    assert list(found[1].item_ids) == [item for item in popular if item not in (10, 20, 40, 50)][:6]
    assert found[1].steps.tolist() == [0] * 6
    assert wire.num_reserves == 1


def test_only_the_requests_of_the_call_that_failed_get_less() -> None:
    wire = Wire(lambda number: number == 2)
    requests = [SEVERAL, DEFAULT, SINGLE]  # quotas are given or not: two calls
    found = wire.recall(requests, wire.ladder)
    assert [one.degraded and one.degraded.rung for one in found] == [None, "fewer_interests", None]
    expected = wire.recaller.recall_many([SEVERAL, SINGLE, SINGLE])
    assert [facts(one) for one in found] == [facts(one) for one in expected]
    assert found[0].timings == found[1].timings and found[0].timings.total_ns > 0


def test_the_last_rung_needs_nobody_and_says_why_the_last_one_failed() -> None:
    wire = Wire(lambda number: True)
    several, single, nobody = wire.recall([SEVERAL, SINGLE, NOBODY], wire.ladder)
    assert several.item_ids == single.item_ids
    assert several.degraded is not None and several.degraded.rung == "popular"
    assert nobody.degraded is None  # it is what was asked for
    assert facts(nobody) == facts(wire.recaller.recall_many([NOBODY])[0])


def test_too_many_items_are_an_error_on_every_rung() -> None:
    wire = Wire(lambda number: True)
    with pytest.raises(ShortfallError) as caught:
        wire.recall([replace(SEVERAL, k=30, quotas=None)], wire.ladder)
    assert (caught.value.requested, caught.value.available) == (30, 26)
