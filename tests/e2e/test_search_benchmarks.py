from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tiny_model import Export

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
    rows = Result.load(tmp_path / "item_search.json").rows
    assert {(row.facts["num_queries"], row.facts["k"]) for row in rows} == {
        (queries, k) for queries in (1, 2, 4, 8, 64, 512) for k in (10, 50)
    }
    # Two items whose scores differ by less than float32's rounding may change places at the end of a list.
    assert min(float(row.facts["same_items"] or 0) for row in rows) >= 0.98


def test_peers_says_why_one_is_missing_and_measures_ours(export: Export, tmp_path: Path) -> None:
    arguments = ("--bundle", export.bundle, "--replay", tmp_path / "nowhere/bin/python", "--out", "peers.json")
    said = run("peers.py", tmp_path, *arguments)
    assert "RePlay was not measured" in said
    result = Result.load(tmp_path / "peers.json")
    assert "nowhere" in result.method["missing"]["RePlay"]
    assert [row.name for row in result.rows] == ["recgpt, fused (2 steps)", "recgpt, index (2 steps)"] * 3
    assert all(row.facts["ratio_to_peer"] is None for row in result.rows)
