"""The benchmark of the queue's bounds, as a user calls it, with servers of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tiny_model import Export

from recgpt.bench.results import Result

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "queue_bounds.py"


def test_each_setting_is_measured_with_one_client_and_with_several(export: Export, tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--bundle", str(export.bundle)]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    result = Result.load(tmp_path / "benchmarks" / "results" / "queue_bounds.json")
    found = [(row.name, row.facts["clients"]) for row in result.rows]
    assert found == [("no bound", 1), ("no bound", 3), ("size", 1), ("size", 3)]
    for row in result.rows:
        assert len(row.samples_ns) > 10
        assert row.facts["num_waiting"] == sum(sample > 400e6 for sample in row.samples_ns)
