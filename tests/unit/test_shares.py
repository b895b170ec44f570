from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from toy_model import ToyModel

from recgpt.errors import ConfigError, ShortfallError
from recgpt.recall.layout import GRAPH_BELOW, LEAST_SHARE, least_share
from recgpt.recall.recaller import Recaller
from recgpt.recall.shares import Shares, check_num_threads
from recgpt.turns import Turn, outside
from recgpt.types import RecallRequest

TIMEOUT_S = 30


def alike(request: object) -> int:
    return 0


class Doubler:
    """Doubles numbers, and keeps which thread was given which."""

    def __init__(self) -> None:
        self.given: list[tuple[str, list[int]]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.given.append((threading.current_thread().name, list(numbers)))
        return [2 * number for number in numbers]


@pytest.mark.parametrize("num_threads", [1, 2, 3, 7])
@pytest.mark.parametrize("least", [1, 4])
@pytest.mark.parametrize("number", [0, 1, 3, 4, 8, 13, 100])
def test_all_answers_are_in_the_order_of_the_requests(num_threads: int, least: int, number: int) -> None:
    shares, double = Shares(num_threads, least), Doubler()
    assert shares.answer(range(number), double, alike) == [2 * n for n in range(number)]
    expected = max(1, min(num_threads, number // least))
    assert len(double.given) == expected
    assert expected == 1 or min(len(share) for _, share in double.given) >= least


def test_threads_end_with_the_shares() -> None:
    shares, before = Shares(3, 1), set(threading.enumerate())
    shares.answer(range(30), Doubler(), alike)
    workers = set(threading.enumerate()) - before
    assert workers
    del shares
    for worker in workers:
        worker.join(TIMEOUT_S)
        assert not worker.is_alive()


def test_the_calling_thread_takes_the_heaviest_and_like_ones_are_together() -> None:
    double = Doubler()
    found = Shares(3, 2).answer([5, 1, 9, 3, 7, 1, 8, 2, 6], double, weight=int)
    assert found == [10, 2, 18, 6, 14, 2, 16, 4, 12]
    assert double.given[0] == (threading.current_thread().name, [9, 8, 7])
    assert sorted(sorted(share) for _, share in double.given) == [[1, 1, 2], [3, 5, 6], [7, 8, 9]]


def test_few_requests_stay_in_the_calling_thread() -> None:
    shares, double = Shares(4, 8), Doubler()
    shares.answer(range(15), double, alike)
    assert double.given == [(threading.current_thread().name, list(range(15)))]


def test_shares_are_answered_side_by_side() -> None:
    meeting = threading.Barrier(3)

    def meet(numbers: Sequence[int]) -> list[int]:
        outside(meeting.wait, TIMEOUT_S)
        return list(numbers)

    assert Shares(3, 2).answer(range(9), meet, alike) == list(range(9))


def test_one_share_at_a_time_is_in_python() -> None:
    inside, most = [0], [0]
    entered = threading.Barrier(4)

    def work(numbers: Sequence[int]) -> list[int]:
        for _ in range(50):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1
            outside(sum, numbers)
        outside(entered.wait, TIMEOUT_S)  # all four were here
        return list(numbers)

    Shares(4, 1).answer(range(8), work, alike)
    assert most[0] == 1


def test_what_no_other_thread_is_free_for_is_done_by_the_calling_one() -> None:
    shares, is_busy, is_done = Shares(2, 1), threading.Event(), threading.Event()

    def hold(numbers: Sequence[int]) -> list[int]:
        if threading.current_thread().name.startswith("recgpt-share"):
            is_busy.set()
            outside(is_done.wait, TIMEOUT_S)
        return list(numbers)

    first = threading.Thread(target=shares.answer, args=(range(4), hold, alike))
    first.start()
    assert is_busy.wait(TIMEOUT_S)
    double = Doubler()
    assert shares.answer(range(4), double, alike) == [0, 2, 4, 6]
    assert {name for name, _ in double.given} == {threading.current_thread().name}
    is_done.set()
    first.join(TIMEOUT_S)
    assert not first.is_alive()


@pytest.mark.parametrize("bad", range(6))
def test_an_error_in_any_share_is_the_call_s_and_the_next_call_is_answered(bad: int) -> None:
    shares = Shares(3, 2)

    def refuse(numbers: Sequence[int]) -> list[int]:
        if bad in numbers:
            raise ValueError(f"not {bad}")
        return list(numbers)

    with pytest.raises(ValueError, match=f"not {bad}"):
        shares.answer(range(6), refuse, alike)
    assert shares.answer(range(6), Doubler(), alike) == [0, 2, 4, 6, 8, 10]


def test_a_turn_is_given_back_after_an_error_outside() -> None:
    turn = Turn()

    def fail() -> None:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"), turn:
            outside(fail)


def test_outside_within_outside_and_without_a_turn_is_a_plain_call() -> None:
    assert outside(max, 1, 2) == 2
    with Turn():
        assert outside(lambda: outside(max, 1, 2)) == 2


@pytest.mark.parametrize("number", [0, -1])
def test_a_wrong_number_of_threads_is_refused(number: int) -> None:
    with pytest.raises(ConfigError, match=f"num_threads = {number}: expected at least 1, or None"):
        check_num_threads(number)


def test_calls_over_small_and_over_approximately_searched_catalogues_are_shared_out() -> None:
    assert least_share(GRAPH_BELOW - 1, is_exact=True) == LEAST_SHARE
    assert least_share(GRAPH_BELOW, is_exact=True) is None
    assert least_share(10**6, is_exact=False) == 1


def shared_recaller(model: ToyModel, shares: Shares) -> Recaller:
    alone = model.recaller()
    return Recaller(alone.backend, alone.index, alone.catalogue, prompt_tuned=True, shares=shares)


def test_a_recaller_answers_a_call_in_shares_as_it_does_at_once() -> None:
    model = ToyModel()
    requests = [
        RecallRequest(history=[10 * (1 + n % 5)] * (1 + n % 3), k=3 + n % 4, quotas=(2, 1 + n % 4)) for n in range(23)
    ]
    with shared_recaller(model, Shares(3, 4)) as recaller:
        found = recaller.recall_many(iter(requests))
    expected = model.recaller().recall_many(requests)
    assert [(one.item_ids, one.steps.tolist()) for one in found] == [
        (one.item_ids, one.steps.tolist()) for one in expected
    ]


def test_a_request_that_cannot_be_answered_is_refused_whichever_share_it_is_in() -> None:
    requests = [RecallRequest(history=[10], k=2)] * 8
    with shared_recaller(ToyModel(num_items=6), Shares(2, 2)) as recaller:
        for place in range(8):
            wrong = [*requests[:place], RecallRequest(history=[10], k=6), *requests[place + 1 :]]
            with pytest.raises(ShortfallError):
                recaller.recall_many(wrong)
        assert len(recaller.recall_many(requests)) == 8
