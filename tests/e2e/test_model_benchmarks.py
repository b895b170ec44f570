"""The benchmarks of the model alone and of the engine in process, each from the command to its JSON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import Export

from recgpt.bench.floor import FLOOR
from recgpt.bench.results import Result

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

# Two items whose scores differ by less than rounding may change places.
MIN_IDENTICAL = 0.98


def run(name: str, folder: Path, *arguments: object) -> Result:
    """What the script wrote into the folder, with everything that any benchmark has to say."""
    out = folder / f"{name}.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--out", str(out), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"wrote {out}" in done.stdout
    result = Result.load(out)
    assert {"cpu", "num_cores", "packages", "commit"} <= set(result.environment)
    assert {"title", "text", "parameters"} <= set(result.method)
    assert result.rows
    return result


def test_interests_are_measured_by_every_way_and_are_those_of_pytorch(export: Export, tmp_path: Path) -> None:
    arguments = ("--bundle", export.bundle, "--checkpoint", export.checkpoint_file)
    result = run("interests_latency", tmp_path, *arguments)
    assert set(result.method["parameters"]["blas_threads"].values()) == {1}
    assert list(result.method["missing"]) == ["torch.compile"]
    measured = {row.name for row in result.rows}
    assert {"eager, recompute", "ONNX, fused", f"{FLOOR}numpy", f"{FLOOR}torch"} <= measured
    for row in result.rows:
        if not row.name.startswith(FLOOR):
            assert row.facts["identical_items"] >= MIN_IDENTICAL, row.name
            assert row.facts["identical_lists"] >= MIN_IDENTICAL, row.name


def test_a_cache_is_measured_against_recomputation_and_gives_its_lists(tmp_path: Path) -> None:
    result = run("kv_cache", tmp_path)
    assert {row.facts["task"] for row in result.rows} == {"interests", "prompts"}
    assert [row.name for row in result.rows[:2]] == ["cached", "recomputed"]
    for row in result.rows:
        assert row.facts["identical_lists"] >= 0.9, row.facts  # 1 of 32 histories is .03
        assert row.facts["max_difference"] < 1e-3


@pytest.mark.slow  # it exports the model three times
def test_every_precision_is_measured_and_held_against_float32(export: Export, tmp_path: Path) -> None:
    result = run("precision", tmp_path, "--bundle", export.bundle, "--checkpoint", export.checkpoint_file)
    assert {"float32", "float16", "int8"} <= {row.name for row in result.rows}
    for row in result.rows:
        if row.name in ("float32", "int8"):
            assert row.facts["identical_lists"] >= MIN_IDENTICAL, row.facts
    sizes = {row.name: row.facts["graph_bytes"] for row in result.rows}
    assert sizes["float16"] < sizes["float32"]


def test_threads_at_once_recall_what_one_does_and_memory_is_told_by_stage(export: Export, tmp_path: Path) -> None:
    result = run("concurrency", tmp_path, "--bundle", export.bundle)
    assert [row.facts["clients"] for row in result.rows] == [1, 2, 4, 8]
    assert {row.facts["identical_lists"] for row in result.rows} == {1.0}
    for found in result.method["memory"]:
        assert 0 < found["start"] < found["libraries"] <= found["index"] <= found["graphs"]
