from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import Export

from recgpt.bench.peers_report import peers
from recgpt.bench.report_losses import not_measured
from recgpt.bench.results import Result

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def run(script: str, folder: Path, *arguments: object) -> str:
    command = [sys.executable, str(BENCHMARKS / script), "--quick", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_item_search_measures_every_way_and_all_find_the_same(tmp_path: Path) -> None:
    said = run("item_search.py", tmp_path, "--out", "item_search.json")
    assert "wrote item_search.json" in said
    result = Result.load(tmp_path / "item_search.json")
    assert set(result.method["parameters"]["blas_threads"].values()) == {1}
    rows = result.rows
    assert {(row.facts["num_queries"], row.facts["k"]) for row in rows} == {
        (queries, k) for queries in (1, 2, 4, 8, 64, 512) for k in (10, 50)
    }
    # Two items whose scores differ by less than float32's rounding may change places at the end of a list.
    assert min(float(row.facts["same_items"] or 0) for row in rows) >= 0.98


def test_peers_says_who_is_missing_and_why_and_measures_ours(export: Export, tmp_path: Path) -> None:
    broken = tmp_path / "python"  # an environment without the library
    broken.write_text("#!/bin/sh\necho no module named replay >&2\n")
    broken.chmod(0o755)
    arguments = ("--bundle", export.bundle, "--checkpoint", export.checkpoint_file, "--replay", broken)
    said = run("peers.py", tmp_path, *arguments, "--out", "peers.json")
    result = Result.load(tmp_path / "peers.json")
    assert {"RePlay", "RecTools", "RecBole"} == set(result.method["missing"])
    assert "no module named replay" in result.method["missing"]["RePlay"]
    assert "artifacts/rectools/bin/python is missing" in result.method["missing"]["RecTools"]
    assert all(f"{name} was not measured" in said for name in result.method["missing"])
    ours = ["eager PyTorch and topk", "fused", "index", "graph", "auto"]
    for rows in result.calls_by_batch().values():
        eager, *_, floor = rows
        assert [row.name for row in rows[:-1]] == [f"recgpt, {way} (2 steps)" for way in ours]
        assert floor.name.startswith("floor: ")
        for row in rows:
            assert row.facts["identical_lists"] == (None if row is floor else 1.0)
            assert row.facts["ratio_to_replay"] is None
            assert row.facts["ratio_to_eager"] == pytest.approx(eager.latency_ms["p50"] / row.latency_ms["p50"])
            assert row.facts["ratio_to_floor"] == pytest.approx(row.latency_ms["p50"] / floor.latency_ms["p50"])
    section = peers(result, tmp_path)
    assert section.plots[0].read_bytes().startswith(b"\x89PNG")
    assert len(list(not_measured(result))) == 3
