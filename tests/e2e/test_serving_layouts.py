"""The benchmark of layouts as a user runs it: every layout in every setting, with the engine's lists."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recgpt.bench.results import Result

CHECKOUT = Path(__file__).resolve().parents[2]
RECALLING = ["engine, in process", "recall graph, in process", "index in the client", "recall graph", "recall_engine"]
EMPTY = ["empty, ONNX Runtime", "empty, Python"]


@pytest.fixture(scope="module")
def result(export, tmp_path_factory):
    out = tmp_path_factory.mktemp("layouts") / "result.json"
    command = [sys.executable, "benchmarks/serving_layouts.py", "--quick", "--bundle", export.bundle, "--out", out]
    finished = subprocess.run(
        list(map(str, command)), cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert all(name in finished.stdout for name in RECALLING)
    return Result.load(out)


def test_every_layout_is_measured_alone_and_under_load(result):
    settings = [(mode, clients) for mode, clients in (("calls", 1), ("load", 1), ("load", 8), ("load", 32))]
    found = [(row.facts["mode"], row.facts["clients"], row.name) for row in result.rows]
    assert found == [(*setting, name) for setting in settings for name in (*RECALLING, *EMPTY)]
    assert all(row.samples_ns for row in result.rows)


def test_every_layout_gives_the_engines_lists(result):
    for row in result.rows:
        if row.name in EMPTY:
            assert row.facts["identical_lists"] is None
        else:
            # Two items may score alike up to the rounding of float32.
            assert row.facts["identical_lists"] >= 0.98, row.name


def test_ratios_follow_from_the_samples(result):
    calls = {row.name: row for row in result.rows if row.facts["mode"] == "calls"}
    for row in calls.values():
        empty, engine = calls["empty, Python"].latency_ms["p50"], calls["engine, in process"].latency_ms["p50"]
        assert row.facts["ratio_to_empty"] == pytest.approx(row.latency_ms["p50"] / empty)
        assert row.facts["overhead_ms"] == pytest.approx(row.latency_ms["p50"] - engine, abs=1e-9)


def test_the_server_counts_what_it_was_sent(result):
    for row in result.rows:
        if row.facts["mode"] == "load" and "num_inferences" in row.facts:
            assert row.facts["num_inferences"] == len(row.samples_ns), row.name
            assert 1 <= row.facts["num_executions"] <= row.facts["num_inferences"]
