"""The parts of the load benchmark that no server is needed for."""

from __future__ import annotations

import asyncio
import itertools
import math

import numpy as np
import pytest

from recgpt.asking import drive
from recgpt.backends.triton_rpc import ModelStatistics
from recgpt.bench import report_findings as findings
from recgpt.bench import report_losses as losses
from recgpt.bench.load_report import bar_cells, highest_fact, serving_load
from recgpt.bench.load_rows import BARS, SERVER, Used, judge, kept, load_row, meets, stage_means
from recgpt.bench.loadgen import Answered, complete, read_trace, run_offline, run_server
from recgpt.bench.open_loop import Asked, Run, offline, serve
from recgpt.bench.rate_search import Bracket, search_rate
from recgpt.bench.results import Result, Row
from recgpt.bench.sessions import ITEM_CLICKS, SESSION_LENGTHS, click_requests, history_lengths
from recgpt.errors import ConfigError, ServerUnavailableError
from recgpt.types import Candidates, ColdStart, RecallRequest, Timings

MS = 1_000_000


def candidates(item_ids=(1, 2), *, encode=0, interests=0, search=0) -> Candidates:
    timings = Timings(encode_ns=encode, interests_ns=interests, search_ns=search, merge_ns=0, total_ns=0)
    return Candidates(
        item_ids=tuple(item_ids),
        scores=np.zeros(len(item_ids), dtype=np.float32),
        steps=np.ones(len(item_ids), dtype=np.int64),
        cold_start=ColdStart(shared_user=True, num_unknown_items=0, popular=False),
        timings=timings,
    )


# Sessions


def test_quantiles_of_sessions_are_those_of_the_power_law():
    # 2 + 277 u^14.277: u = 1/2 adds 0.014, u = 0.9 adds 61.5, u = 0.99 adds 240.0; nothing is longer than 277.
    assert SESSION_LENGTHS.at(np.array([0.0, 0.5, 0.9, 0.99, 1.0])).tolist() == [2, 2, 64, 242, 277]
    assert ITEM_CLICKS.at(np.array([0.0, 0.5, 1.0])).tolist() == [1, 1, 2335]


def test_histories_are_as_long_as_sessions_were_at_each_of_their_clicks():
    lengths = history_lengths(20_000, np.random.default_rng(3))
    # A click is its session's n-th with a probability in proportion to the share of sessions of n clicks or more: all
    # have two, and 2 + 277 u^14.277 is rounded to more than that above u = (0.5 / 277)^0.07004 = 0.6424.
    shares = [float(np.mean(lengths == number)) for number in (1, 2, 3)]
    assert shares[0] == pytest.approx(shares[1], rel=0.1)
    assert shares[2] / shares[0] == pytest.approx(1 - 0.6424, rel=0.2)
    assert lengths.min() == 1 and lengths.max() <= 277


def test_requests_are_the_same_each_time_and_of_the_catalogue():
    ids = [f"i{number}" for number in range(50)]
    requests = click_requests(30, ids, quotas=(9, 1))
    assert requests == click_requests(30, ids, quotas=(9, 1))
    assert requests != click_requests(30, ids, quotas=(9, 1), seed=1)
    assert len(requests) == 30
    assert all(request.k == 10 and set(request.history) <= set(ids) and request.history for request in requests)


# The search for the highest rate


def searched(capacity: float, ladder, **options) -> tuple[list[float], Bracket]:
    tested = []

    def meets_bound(rate: float) -> bool:
        tested.append(rate)
        return rate <= capacity

    return tested, drive(search_rate(ladder, **options), meets_bound)


def test_the_search_goes_up_the_ladder_and_then_halves_the_gap_between_met_and_failed():
    tested, bracket = searched(620, (100, 400, 1600), precision=1.25, lowest=10)
    # sqrt(400 1600) = 800; sqrt(400 800) = 566; sqrt(566 800) = 673; 673 / 566 = 1.19.
    assert tested == [100, 400, 1600, 800, 566, 673]
    assert bracket == Bracket(met=566, failed=673)


def test_the_search_goes_below_the_ladder_and_gives_up_at_the_lowest_rate():
    assert searched(30, (100, 200), precision=1.5, lowest=10) == ([100, 50, 25, 35], Bracket(met=25, failed=35))
    assert searched(1, (100, 200), precision=1.5, lowest=20) == ([100, 50, 25], Bracket(met=None, failed=25))


def test_the_search_ends_with_the_ladder():
    assert searched(math.inf, (100, 200), precision=1.5, lowest=10) == ([100, 200], Bracket(met=200, failed=None))


@pytest.mark.parametrize("ladder", [(), (0, 1), (2, 1)])
def test_a_ladder_that_does_not_ascend_is_refused(ladder):
    with pytest.raises(ConfigError, match="ladder"):
        searched(1, ladder, precision=1.5, lowest=1)


# LoadGen


def test_the_trace_is_read_in_the_order_in_which_requests_were_due():
    line = '"args":{{"sample_seq":{},"query_seq":{},"sample_idx":{},"issue_start_ns":{},"complete_ns":{}}}}},\n'
    text = '{"traceEvents":[' + line.format(1, 1, 7, 20, 900) + line.format(0, 0, 5, 10, 400)
    assert read_trace(text) == [
        Answered(number=0, place=5, late_ns=10, latency_ns=400),
        Answered(number=1, place=7, late_ns=20, latency_ns=900),
    ]


def test_arrivals_are_poisson_at_the_rate_and_the_same_for_a_seed():
    def places(seed: int) -> list[int]:
        found = run_server(
            lambda due: complete([sample for sample, _ in due]),
            num_requests=10, rate=2000, duration_s=0.5, seed=seed, max_waiting=1000,
        )  # fmt: skip
        return [answered.place for answered in found]

    first = places(1)
    # 1,000 arrivals have a standard deviation of 32.
    assert abs(len(first) - 1000) < 150
    assert first == places(1) != places(2)
    assert set(first) == set(range(10))


def test_both_accounts_of_a_run_are_in_the_same_order():
    async def answer_later(requests):
        await asyncio.sleep(0)
        return []

    run = asyncio.run(serve(answer_later, requests_of(4), rate=1000, duration_s=0.5, seed=1))
    assert len(run.answered) == len(run.asked)
    assert [answered.place for answered in run.answered] == [asked.place for asked in run.asked]


def test_offline_sends_batches_and_never_more_than_so_many_at_once():
    under_way, most, sizes = 0, 0, []

    async def recall(requests):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        sizes.append(len(requests))
        await asyncio.sleep(0.001)
        under_way -= 1
        return [candidates(request.history) for request in requests]

    run = asyncio.run(offline(recall, requests_of(5), num_samples=64, batch=16, num_under_way=2, seed=1))
    assert len(run.answered) == len(run.asked) == 64
    assert sizes == [16] * 4 and most == 2
    assert all(asked.answer.item_ids == (asked.place,) for asked in run.asked)


def test_offline_issues_all_at_once():
    batches = []

    def issue(due):
        batches.append(len(due))
        complete([sample for sample, _ in due])

    assert len(run_offline(issue, num_requests=3, num_samples=50, seed=1)) == 50
    assert batches == [50]


def test_a_failure_is_counted_and_the_run_goes_on():
    async def recall(requests):
        if requests[0].history == (0,):
            raise ServerUnavailableError("gone")
        return [candidates()]

    run = asyncio.run(serve(recall, requests_of(2), rate=500, duration_s=0.2, seed=1))
    failed = [asked for asked in run.asked if asked.error is not None]
    assert failed == [asked for asked in run.asked if asked.place == 0] != []
    assert all(asked.answer is None for asked in failed)


# Rows


def requests_of(number: int) -> list[RecallRequest]:
    return [RecallRequest(history=[place]) for place in range(number)]


def run_of(latencies_ms, asked) -> Run:
    answered = [
        Answered(number=number, place=one.place, late_ns=MS, latency_ns=round(latency * MS))
        for number, (latency, one) in enumerate(zip(latencies_ms, asked, strict=True))
    ]
    return Run(answered=answered, asked=asked)


COUNTED = ModelStatistics(
    num_inferences=2, num_executions=1, num_failures=0,
    queue_ns=2 * MS, compute_input_ns=1 * MS, compute_infer_ns=5 * MS, compute_output_ns=7 * MS,
)  # fmt: skip


def test_stages_of_a_request_sum_to_its_latency():
    # Two requests: 1 ms late, 2 ms until the loop came, 12 ms in the client's call, of it 3 ms search, 8 ms round trip.
    answer = candidates(interests=8 * MS, search=3 * MS)
    asked = [Asked(place=0, wait_ns=2 * MS, recall_ns=12 * MS, answer=answer) for _ in range(2)]
    means = stage_means(run_of([15, 15], asked), COUNTED)
    # Of the round trip the server counts 2 / 2 ms in the queue and (1 + 5) / 2 ms of computing.
    assert means == pytest.approx({"generator": 3, "client": 1, "search": 3, "network": 4, "queue": 1, "compute": 3})
    assert sum(means.values()) == pytest.approx(15)


def test_stages_of_an_empty_model_are_its_round_trip():
    asked = [Asked(place=0, wait_ns=0, recall_ns=9 * MS, answer=None) for _ in range(2)]
    means = stage_means(run_of([10, 10], asked), COUNTED)
    assert means == pytest.approx({"generator": 1, "client": 0, "search": 0, "network": 5, "queue": 1, "compute": 3})


def test_a_row_says_how_many_answers_are_the_right_ones():
    asked = [
        Asked(place=0, wait_ns=0, recall_ns=MS, answer=candidates((1, 2))),
        Asked(place=1, wait_ns=0, recall_ns=MS, answer=candidates((1, 2))),
        Asked(place=1, wait_ns=0, recall_ns=MS, answer=candidates((3, 4))),
        Asked(place=0, wait_ns=0, recall_ns=MS, answer=None, error=ServerUnavailableError("gone")),
    ]
    row = load_row(
        "a", {"mode": SERVER}, run_of([1, 2, 3, 4], asked),
        server=COUNTED, used=Used(client_s=0.004, server_s=0.008), expected=[(1, 2), (3, 4)], alone=[(1, 2), (1, 2)],
    )  # fmt: skip
    facts = row.facts
    assert (facts["identical_lists"], facts["own_lists"], facts["num_failed"]) == (0.5, 0.5, 1)
    assert (facts["p50_ms"], facts["client_cpu_ms"], facts["server_cpu_ms"]) == pytest.approx((2.5, 1, 2))
    assert facts["rows_a_run"] == 2
    assert not meets(row)


def test_kept_samples_are_evenly_spaced_by_rank():
    assert kept([5, 3, 1], 3) == (1, 3, 5)
    assert kept(range(101), 5) == (0, 25, 50, 75, 100)


def row_of(name: str, **facts) -> Row:
    given = {"mode": SERVER, "attempt": 1, "num_failed": 0, "p50_ms": 1.0, "p90_ms": 2.0, **facts}
    return Row(name=name, facts=given, samples_ns=(1, 2))


def test_bars_take_the_best_layout_that_answered_everything():
    rows = [
        row_of("recall graph", num_items=10_000, rate=1000, p99_ms=70.0),
        row_of("recall_engine", num_items=10_000, rate=1000, p99_ms=49.0, num_failed=1),
        row_of("recall_engine", num_items=10_000, rate=1000, p99_ms=60.0),
        row_of("empty, Python", num_items=10_000, rate=1000, p99_ms=3.0),
        row_of("recall_engine", num_items=10_000, rate=500, p99_ms=2.0),
        row_of("recall graph", num_items=1_000_000, rate=200, p99_ms=9.0, p90_ms=8.0),
        row_of("recall_engine", num_items=1_000_000, rate=200, p99_ms=90.0, p90_ms=40.0),
        row_of("recall_engine", mode="one request", num_items=10_000, overhead_ms=0.7),
        row_of("empty, Python", mode="one request", num_items=10_000, overhead_ms=0.1),
    ]
    facts = ("num_items", "layout", "reached_ms", "is_met", "hop_ms")
    assert [tuple(bar[fact] for fact in facts) for bar in judge(rows)] == [
        (10_000, "recall graph", 70.0, 0, None),
        (1_000_000, "recall_engine", 40.0, 1, None),
        (10_000, "recall_engine", 0.7, 1, rows[-1].latency_ms["p50"]),
    ]
    assert judge(rows[:4], BARS[1:]) == []


def test_a_rate_that_was_held_counts_by_the_median_of_its_runs_and_alone():
    def bar(*p99s: float, **facts) -> dict[str, object]:
        held = [row_of("recall_engine", mode="held", num_items=10_000, rate=1000, p99_ms=p99, **facts) for p99 in p99s]
        (found,) = judge([row_of("recall_engine", num_items=10_000, rate=1000, p99_ms=30.0), *held], BARS[:1])
        return found

    assert bar()["reached_ms"] == 30.0
    assert (bar(49.0, 90.0, 45.0)["reached_ms"], bar(49.0, 90.0, 45.0)["is_met"]) == (49.0, 1)
    assert bar(49.0, 90.0, 51.0)["is_met"] == 0
    lost = row_of("recall_engine", mode="held", num_items=10_000, rate=1000, p99_ms=2.0, num_failed=1)
    assert judge([lost], BARS[:1]) == []


def test_a_rate_that_nobody_was_asked_for_because_lower_ones_were_missed_is_missed():
    rows = [
        row_of("recall_engine", num_items=10_000, rate=500, p99_ms=70.0),
        row_of("empty, Python", num_items=100_000, rate=200, p99_ms=3.0),
    ]
    (bar,) = judge(rows)
    assert (bar["bar"], bar["layout"], bar["reached_ms"], bar["is_met"]) == ("1,000 requests/s", None, None, 0)
    result = Result(name="serving_load", environment={}, method={"bars": [bar]}, rows=())
    (found,) = findings.serving_load(result)
    assert found == "1,000 requests/s over 10,000 items, p99 <= 50 ms: missed, as lower rates were already."
    assert bar_cells([bar]) == [["1,000 requests/s", "10,000", "p99 <= 50 ms", "-", "-", "no"]]


def test_a_missed_bar_on_one_request_is_told_with_what_the_hop_costs():
    rows = [
        row_of("recall_engine", mode="one request", num_items=10_000, overhead_ms=1.8),
        Row(name="empty, Python", facts={"mode": "one request", "num_items": 10_000}, samples_ns=(600_000, 600_000)),
    ]
    method = {"bars": judge(rows)}
    (found,) = findings.serving_load(Result(name="serving_load", environment={}, method=method, rows=()))
    assert found.endswith("1.80 ms by recall_engine; missed, where a call of a model that does nothing takes 0.60 ms.")


def test_a_layout_that_met_no_rate_is_in_the_report_and_says_so(tmp_path):
    rows = [
        row_of(name, num_items=10_000, rate=rate, p99_ms=p99)
        for name, slower in (("recall graph", 30), ("recall_engine", 1))
        for rate, p99 in itertools.zip_longest((50, 100), (2.0 * slower, 40.0 * slower))
    ]
    nothing = dict.fromkeys(("identical_lists", "own_lists", *(f"{stage}_ms" for stage in stage_names())), None)
    rows = [Row(name=row.name, facts={**row.facts, **nothing}, samples_ns=row.samples_ns) for row in rows]
    highest = [
        highest_fact("recall graph", 10_000, Bracket(met=None, failed=50), rows[:2]),
        highest_fact("recall_engine", 10_000, Bracket(met=100, failed=None), rows[2:]),
    ]
    assert (highest[0]["p99_ms"], highest[1]["p99_ms"]) == (None, 40.0)
    parameters = {"effort": {"ladder": [50, 100], "lowest": 50}}
    method = {"title": "t", "text": "", "parameters": parameters, "highest": highest, "bars": judge(rows)}
    result = Result(name="serving_load", environment={}, method=method, rows=tuple(rows))
    serving_load(result, tmp_path)
    assert list(losses.serving_load(result)) == [
        "recall graph with 10,000 items: no rate of at least 50 requests/s kept p99 within 50 ms."
    ]
    assert (tmp_path / "serving_load.png").is_file()


def stage_names() -> list[str]:
    asked = [Asked(place=0, wait_ns=0, recall_ns=1, answer=None)]
    return list(stage_means(run_of([1], asked), COUNTED))
