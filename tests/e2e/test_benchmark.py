from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import random_checkpoint

from recgpt.bench.results import Result
from recgpt.bench.subject import find_subject
from recgpt.model.checkpoint import save_checkpoint

CHECKOUT = Path(__file__).resolve().parents[2]
RESULT = Path("benchmarks/results/recall_latency.json")
SCRIPT = CHECKOUT / "benchmarks" / "recall_latency.py"

CONTENDERS = ["eager", "engine", "engine, KV cache", "engine, in-graph top-k", "Triton"]
IN_PROCESS = {"encode", "interests", "search", "merge"}

# Two items whose scores differ by less than float32's rounding may change places; a few of 256 lists may hold such two.
MIN_IDENTICAL = 0.98


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def finished(export, folder):
    """The script as the demo calls it; it brings its own server."""
    return run(folder, "--quick", "--bundle", export.bundle, "--checkpoint", export.checkpoint_file)


@pytest.fixture(scope="module")
def result(folder, finished):
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return Result.load(folder / RESULT)


def run(folder, *arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


def test_it_prints_every_contender_and_where_the_results_are(finished, result):
    said = " ".join(finished.stdout.split())
    assert all(name in said for name in CONTENDERS)
    assert "wrote benchmarks/results/recall_latency.json" in said


def test_every_contender_is_measured_at_every_batch_size(result):
    for batch, rows in result.calls_by_batch().items():
        assert [row.name for row in rows] == CONTENDERS, batch
    assert list(result.calls_by_batch()) == [1, 8, 32, 256]


def test_stages_add_up_to_the_whole_call(result):
    for row in [row for rows in result.calls_by_batch().values() for row in rows]:
        assert set(row.stages_ns) == IN_PROCESS | ({"network", "queue"} if row.name == "Triton" else set())
        sums = [sum(parts) for parts in zip(*row.stages_ns.values(), strict=True)]
        assert sums == list(row.samples_ns)


def test_faster_is_not_bought_with_other_lists(result):
    for row in [row for rows in result.calls_by_batch().values() for row in rows]:
        assert row.facts["identical_lists"] >= MIN_IDENTICAL, row.name


def test_ratios_and_throughput_follow_from_the_samples(result):
    for batch, rows in result.calls_by_batch().items():
        eager = sorted(rows[0].samples_ns)
        middle = len(eager) // 2
        assert rows[0].facts["ratio_to_eager"] == 1.0
        assert rows[0].latency_ms["p50"] == pytest.approx((eager[middle - 1] + eager[middle]) / 2 / 1e6)
        for row in rows:
            assert row.facts["throughput"] == pytest.approx(batch * len(row.samples_ns) * 1e9 / sum(row.samples_ns))


def test_the_server_counts_the_requests_of_many_clients(result):
    loads = [row for row in result.rows if not row.stages_ns]
    assert [row.facts["clients"] for row in loads] == [1, 8, 32]
    for row in loads:
        assert row.facts["num_inferences"] == len(row.samples_ns)
        assert 1 <= row.facts["num_executions"] <= row.facts["num_inferences"]
        assert row.facts["identical_lists"] >= MIN_IDENTICAL


def test_machine_and_method_are_stated(result):
    assert {"cpu", "num_cores", "packages", "commit"} <= set(result.environment)
    assert result.method["parameters"]["num_threads"] == 1


def test_the_plot_lies_beside_the_json(folder, result):
    assert (folder / RESULT).with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_checkpoint_of_another_model_is_refused_and_nothing_is_written(export, folder, tmp_path):
    save_checkpoint(tmp_path / "other.pt", random_checkpoint(seed=1))
    failed = run(tmp_path, "--bundle", export.bundle, "--checkpoint", "other.pt")
    assert failed.returncode == 1
    assert "BundleMismatchError" in failed.stderr
    assert "other.pt" in failed.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["other.pt"]


def test_the_checkpoint_is_found_beside_the_bundle_by_its_weights(export, tmp_path):
    shutil.copytree(export.bundle, tmp_path / "bundle")
    save_checkpoint(tmp_path / "run" / "ckpt.pt", random_checkpoint(seed=1))
    (tmp_path / "damaged.pt").write_bytes(b"nothing")
    said = []
    assert find_subject(tmp_path / "bundle", None, say=said.append).checkpoint is None
    assert "--checkpoint" in said[0]
    shutil.copy(export.checkpoint_file, tmp_path / "mine.pt")
    found = find_subject(tmp_path / "bundle", None, say=said.append).checkpoint
    assert found.popularity.tolist() == export.checkpoint.popularity.tolist()
    assert len(said) == 1


def test_without_an_export_a_small_model_is_built_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = []
    subject = find_subject(None, None, say=said.append)
    assert "artifacts/bundle is missing" in said[0]
    assert "random weights" in said[0]
    assert subject.bundle.path == Path("artifacts/benchmark_bundle")
    assert subject.checkpoint.decoder.num_items == subject.bundle.manifest.model.num_items
    lengths = [len(example.history) for example in subject.bundle.examples()]
    assert 5 <= min(lengths) < 10 < max(lengths) <= 50
