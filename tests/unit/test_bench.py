from __future__ import annotations

import io
import itertools
import json
import re
from collections import Counter

import pytest
import torch
from rich.console import Console
from threadpoolctl import threadpool_limits
from toy_model import ToyModel

from recgpt.bench.environment import INSTRUCTION_SETS, describe_environment
from recgpt.bench.load import lists_alone, run_load
from recgpt.bench.plots import plot_recall_latency
from recgpt.bench.results import Result, Row
from recgpt.bench.stages import STAGES, time_recall
from recgpt.bench.tables import show_recall_latency, significant
from recgpt.bench.threads import pin_threads
from recgpt.bench.timing import Sample, interleave, percentiles_ms
from recgpt.errors import DataError, OutputError, ShortfallError
from recgpt.types import RecallRequest

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def make_result() -> Result:
    rows = []
    for batch, (name, scale) in itertools.product((1, 32), (("eager", 4), ("engine", 1))):
        stages = dict.fromkeys(STAGES, (scale * 100_000 * batch, scale * 120_000 * batch))
        facts = {
            "batch": batch,
            "clients": 1,
            "throughput": 10.5,
            "ratio_to_eager": 4.0 / scale,
            "identical_lists": None,
        }
        total = tuple(sum(values) for values in zip(*stages.values(), strict=True))
        rows.append(Row(name=name, facts=facts, samples_ns=total, stages_ns=stages))
    parameters = {
        "num_threads": 1, "num_items": 1000, "hidden_size": 64, "num_blocks": 1, "quotas": [9, 1], "num_rounds": [2, 2],
    }  # fmt: skip
    return Result(
        name="recall_latency",
        environment={"cpu": "a processor", "num_cores": 2, "load_average": 0.1},
        method={"title": "Two-step recall", "text": "as it was done", "parameters": parameters},
        rows=tuple(rows),
    )


def test_percentiles_are_milliseconds_between_the_samples():
    # 11 samples 0, 1, .., 10 ms: the percentile p lies at p / 10.
    samples = [value * 1_000_000 for value in (10, 0, 9, 1, 8, 2, 7, 3, 6, 4, 5)]
    assert percentiles_ms(samples) == pytest.approx({"p50": 5.0, "p90": 9.0, "p99": 9.9})
    assert percentiles_ms([3_000_000]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0}


def test_rounds_interleave_pairs_in_drawn_orders_of_which_the_second_counts():
    calls = []

    def case(name: str):
        def call(number: int) -> Sample:
            calls.append((name, number))
            return Sample(total_ns=len(calls))

        return call

    samples = interleave({name: case(name) for name in "abc"}, num_rounds=600, num_warmup=1)
    first, second = calls[::2], calls[1::2]
    assert [name for name, _ in first] == [name for name, _ in second]
    rounds = ["".join(name for name, _ in second[start : start + 3]) for start in range(0, len(second), 3)]
    assert {"".join(sorted(order)) for order in rounds} == {"abc"}
    # Each of the six orders about as often as any other, so that none has the same neighbour before it all the time.
    assert min(Counter(rounds).values()) > 60 and len(set(rounds)) == 6
    assert [number for _, number in second] == [0] * 3 + [number for number in range(600) for _ in range(3)]
    assert [number for _, number in first[6:]] == [number for number in range(599) for _ in range(3)]
    places = {name: [2 * place for place, call in enumerate(second, start=1) if call[0] == name] for name in "abc"}
    assert {name: [sample.total_ns for sample in taken] for name, taken in samples.items()} == {
        name: taken[1:] for name, taken in places.items()
    }


def test_json_round_trip_keeps_every_sample_and_fact(tmp_path):
    result = make_result()
    result.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == Result(**{**vars(result), "method": json_equal(result.method)})


def test_json_is_flat_readable_and_states_what_follows_from_the_samples(tmp_path):
    make_result().save(tmp_path / "result.json")
    plain = json.loads((tmp_path / "result.json").read_text())
    assert plain["created"].endswith("+00:00")
    first = plain["rows"][0]
    assert (first["row"], first["batch"], first["throughput"], first["identical_lists"]) == ("eager", 1, 10.5, None)
    # 6 stages of 0.4 and 0.48 ms; the median of two samples is their mean.
    assert first["stages_ms"]["search"]["p50"] == pytest.approx(0.44)
    assert first["latency_ms"]["p50"] == pytest.approx(6 * 0.44)
    assert first["samples_ns"] == [2_400_000, 2_880_000]
    assert '"samples_ns": [2400000,2880000]' in (tmp_path / "result.json").read_text()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"rows": [{"row": "a"}]}', '{"rows": [], "surprise": 1}'])
def test_what_is_no_result_is_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError, match=r"result\.json"):
        Result.load(tmp_path / "result.json")


def test_a_missing_result_is_refused(tmp_path):
    with pytest.raises(DataError, match="run the benchmark again"):
        Result.load(tmp_path / "nothing.json")


def test_a_fact_cannot_hide_a_row_s_own_keys():
    with pytest.raises(ValueError, match="samples_ns"):
        Row(name="a", facts={"samples_ns": 1}, samples_ns=(1,))


def test_the_plot_is_made_from_the_json_alone(tmp_path):
    make_result().save(tmp_path / "result.json")
    plot_recall_latency(Result.load(tmp_path / "result.json"), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG_SIGNATURE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plot.png", "result.json"]


def test_a_plot_that_cannot_be_written_says_so(tmp_path):
    make_result().save(tmp_path / "result.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        plot_recall_latency(make_result(), tmp_path / "file" / "plot.png")


def test_three_digits_are_shown():
    assert [significant(value) for value in (0.123, 1.239, 12.34, 123.4, 1234.5)] == [
        "0.12",
        "1.24",
        "12.3",
        "123",
        "1,234",
    ]


def test_every_library_has_as_many_threads_and_the_result_says_so():
    before = torch.get_num_threads()
    with threadpool_limits():  # puts them back
        for number in (2, 1):
            threads = pin_threads(number)
            assert {"torch", "libgomp"} < set(threads)
            assert any("openblas" in name for name in threads)
            assert set(threads.values()) == {number}
    torch.set_num_threads(before)


def test_environment_names_machine_and_versions():
    found = describe_environment()
    assert found["num_cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["cpu"]
    assert set(found["instruction_sets"]) <= INSTRUCTION_SETS
    assert found["load_average"] >= 0
    assert {"recgpt", "numpy"} <= set(found["packages"])


def test_load_times_every_request_of_every_client():
    recaller = ToyModel().recaller()
    requests = [RecallRequest(history=[10 * row], k=3) for row in (1, 2, 3, 4)]
    load = run_load(recaller, requests, num_clients=2, duration_s=0.1)
    assert len(load.samples_ns) == len(recaller.backend.calls) >= 2
    assert load.duration_ns >= 0.1e9
    # Two clients, each busy or waiting for the other all the time.
    assert sum(load.samples_ns) <= 2 * load.duration_ns
    expected = lists_alone(ToyModel().recaller(), requests)
    assert load.identical_lists(expected) == 1.0
    # The second client begins with the third request.
    assert {0, 2} <= {place for place, _ in load.answers}
    wrong = [*expected[:2], expected[2][::-1], expected[3]]
    share = sum(place == 2 for place, _ in load.answers) / len(load.answers)
    assert load.identical_lists(wrong) == pytest.approx(1 - share)
    assert load.identical_lists(None) is None


def test_load_raises_what_a_client_met():
    recaller = ToyModel(num_items=30).recaller()
    with pytest.raises(ShortfallError):
        run_load(recaller, [RecallRequest(history=[10], k=30)], num_clients=2, duration_s=0.01)


def test_stages_of_a_recall_add_up():
    sample = time_recall(ToyModel().recaller(), [RecallRequest(history=[10, 20], k=3, quotas=(2, 1))])
    assert list(sample.stages_ns) == ["encode", "interests", "search", "merge"]
    assert sum(sample.stages_ns.values()) == sample.total_ns
    assert min(sample.stages_ns.values()) > 0


def test_the_table_shows_each_batch_size_and_leaves_out_what_does_not_exist():
    console = Console(width=100, record=True, file=io.StringIO())
    show_recall_latency(make_result(), console)
    text = console.export_text()
    assert "1 request a call" in text
    assert "32 requests a call" in text
    # 0.44 ms, as above, for one request; eager's requests take four times as long as the engine's.
    assert "0.44" in text
    assert re.search(r"times as fast +1\.00 +4\.00", text)
    assert re.search(r"same lists +- +-", text)


def json_equal(value):
    return json.loads(json.dumps(value))
