from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recgpt.bench.growth import refusal
from recgpt.bench.results import Result

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "catalogue_growth.py"
NUM_ITEMS = 3000
WAYS = ["fused graph, exact", "one graph, exact", "index in the loop, exact", "index in the loop, ivf_sq8"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("growth")
    command = [sys.executable, str(SCRIPT), "--quick", "--items", str(NUM_ITEMS)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "benchmarks/results/catalogue_growth.png").stat().st_size > 10_000
    return Result.load(folder / "benchmarks/results/catalogue_growth.json")


def test_every_way_is_measured_at_every_batch_size(result: Result) -> None:
    assert [(row.facts["batch"], row.name) for row in result.rows] == [(b, w) for b in (1, 32) for w in WAYS]
    assert {row.facts["num_items"] for row in result.rows} == {NUM_ITEMS}


def test_exact_ways_agree_and_approximate_ones_find_most(result: Result) -> None:
    for row in result.rows:
        if row.facts["index"] == "flat":
            assert row.facts["ann_recall_at_100"] == row.facts["identical_lists"] == 1.0
        else:
            assert 0.9 < row.facts["ann_recall_at_100"] < 1.0
            assert row.facts["effort"] > 1


def test_a_catalogue_too_large_for_one_file_is_refused_with_the_reason() -> None:
    assert refusal(1_000_000) is None
    assert "2.6 GB" in str(refusal(10_000_000))
