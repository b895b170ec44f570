"""The benchmark of mixed lengths, as a user calls it, with a server of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recgpt.bench.mixed_lengths import PADDED, PARTS, SINGLE
from recgpt.bench.results import Result

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "mixed_lengths.py"
RESULT = Path("benchmarks/results/mixed_lengths.json")

# Two items whose scores differ by less than float32's rounding may change places.
MIN_IDENTICAL = 0.98


@pytest.fixture(scope="module")
def result(export, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed_lengths")
    command = [sys.executable, str(SCRIPT), "--quick", "--bundle", str(export.bundle)]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return Result.load(folder / RESULT)


def test_every_way_is_measured_in_every_setting_and_gives_the_same_lists(result):
    for batch in (32, 256):
        for number in (1, 2, 6):
            setting = {"batch": batch, "num_interests": number}
            rows = [row for row in result.rows if row.stages_ns and setting.items() <= row.facts.items()]
            assert [row.name for row in rows] == [PADDED, PARTS, SINGLE]
            assert all(row.facts["identical_lists"] >= MIN_IDENTICAL for row in rows)


def test_requests_of_different_lengths_share_runs_on_the_server(result):
    one, few, many = (row.facts for row in result.rows if not row.stages_ns)
    assert one["num_executions"] == one["num_inferences"]
    assert many["clients"] == 32
    assert many["num_executions"] < many["num_inferences"]
    assert few["num_executions"] <= few["num_inferences"]


def test_what_the_histories_and_the_runs_are_like_is_stated(result):
    assert result.method["histories"]["longest_history"] == 24  # the examples have 3, 12 and 24 items
    assert set(result.method["run_costs"]) == {"1", "2", "6"}
