"""The horizon benchmark as a user would run it, on a model that learns next to nothing in a second."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recgpt.data.sequences import write_sequences
from recgpt.data.synthetic import generate

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "benchmarks" / "horizon.py"
TINY = "[model]\nmax_length = 12\nhidden_size = 8\nnum_heads = 2\nffn_size = 16\n"


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("horizon")
    write_sequences(folder / "tiny.txt", generate(num_users=60, num_items=120, seed=0))
    (folder / "tiny.toml").write_text(TINY)
    finished = run(folder, "--data", "tiny.txt", "--config", "tiny.toml", "--epochs", 1)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


def test_every_number_of_steps_and_every_merge_has_its_row(folder: Path) -> None:
    result = json.loads((folder / "benchmarks/results/horizon_tiny.json").read_text())
    settings = [(row["num_interests"], tuple(row["quotas"]), row["merge"]) for row in result["rows"]]
    assert settings[0] == (1, (10,), "quotas")
    assert {number for number, _, _ in settings} == {1, 2, 4, 6}
    assert {merge for number, _, merge in settings if number == 6} == {"quotas", "probability", "reciprocal_rank"}
    assert len(set(settings)) == len(settings)
    for row in result["rows"]:
        assert 0 <= row["recall@5"] <= row["recall@10"] <= 1
        assert len(row["new_items_by_step"]) == row["num_interests"]
        for baseline in ("against_one_step", "against_quotas"):
            against = row[baseline]
            assert against is None or against["mean"] == pytest.approx(row["recall@10"])
        assert (row["against_quotas"] is None) == (row["merge"] == "quotas")
        assert (row["against_one_step"] is None) == (row["num_interests"] == 1)
    assert (folder / "benchmarks/results/horizon_tiny.png").stat().st_size > 10_000


def test_a_length_that_quotas_cannot_keep_their_proportions_in_is_refused_at_once(folder: Path) -> None:
    refused = run(folder, "--data", "tiny.txt", "--k", 15)
    assert refused.returncode == 1
    assert "k = 15: expected a multiple of 10" in refused.stderr


def test_a_checkpoint_that_saw_the_horizon_is_refused(folder: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from recgpt.cli import main; main()",
        "train",
        "--data",
        "tiny.txt",
        "--out",
        "seen",
        "--epochs",
        "1",
    ]
    subprocess.run([*command, "--config", "tiny.toml"], cwd=folder, check=True, capture_output=True)
    refused = run(folder, "--data", "tiny.txt", "--checkpoint", "seen/ckpt.pt")
    assert refused.returncode == 1
    assert "may have been trained on" in refused.stderr
