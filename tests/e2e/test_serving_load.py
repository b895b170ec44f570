"""The benchmark of load as a user runs it, on a small export: every layout at some rates, and every answer its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recgpt.bench.report import write_report
from recgpt.bench.results import Result

CHECKOUT = Path(__file__).resolve().parents[2]
RECALLING = ["index in the client", "recall graph", "recall_engine"]
SERVED = [*RECALLING, "empty, Python"]
STAGES = ("generator_ms", "client_ms", "search_ms", "network_ms", "queue_ms", "compute_ms")


@pytest.fixture(scope="module")
def out(export, tmp_path_factory):
    out = tmp_path_factory.mktemp("load") / "serving_load.json"
    command = [sys.executable, "benchmarks/serving_load.py", "--quick", "--bundle", export.bundle, "--out", out]
    finished = subprocess.run(
        list(map(str, command)), cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert all(name in finished.stdout for name in SERVED)
    return out


@pytest.fixture(scope="module")
def result(out):
    return Result.load(out)


def rows_of(result, mode):
    return [row for row in result.rows if row.facts["mode"] == mode]


def test_every_layout_is_measured_alone_at_some_rates_and_offline(result):
    assert [row.name for row in rows_of(result, "one request")] == ["engine, in process", *SERVED]
    assert [row.name for row in rows_of(result, "offline")] == SERVED
    assert list(dict.fromkeys(row.name for row in rows_of(result, "server"))) == SERVED
    assert [found["layout"] for found in result.method["highest"]] == SERVED
    assert all(row.facts["throughput"] > 0 for row in rows_of(result, "offline"))


def test_every_answer_is_that_users_own(result):
    rows = [row for mode in ("server", "offline") for row in rows_of(result, mode) if row.name in RECALLING]
    for row in rows:
        assert row.facts["num_failed"] == 0
        # Two items may score alike up to the rounding of float32, which depends on the batch.
        assert row.facts["own_lists"] >= 0.98, row.name
        assert row.facts["identical_lists"] >= 0.98, row.name


def test_stages_sum_to_the_mean_latency(result):
    for row in rows_of(result, "server"):
        mean = sum(row.samples_ns) / len(row.samples_ns) / 1e6
        # The kept samples stand for all, and LoadGen takes a little time of its own.
        assert sum(row.facts[stage] for stage in STAGES) == pytest.approx(mean, rel=0.15, abs=0.5), row.name


def test_the_highest_rate_is_one_that_met_the_limit(result):
    for found in result.method["highest"]:
        runs = [row for row in rows_of(result, "server") if row.name == found["layout"]]
        if found["met"] is not None:
            assert min(row.facts["p99_ms"] for row in runs if row.facts["rate"] == found["met"]) <= 50
        if found["failed"] is not None:
            assert all(row.facts["p99_ms"] > 50 for row in runs if row.facts["rate"] == found["failed"])


def test_the_report_has_a_section_of_it(out, tmp_path):
    written = write_report(out.parent, tmp_path / "performance.md")
    assert written.found == ("serving_load",)
    text = (tmp_path / "performance.md").read_text()
    assert "Recall over a server under load" in text
    assert (out.parent / "serving_load.png").is_file()
