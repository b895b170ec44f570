"""A feedback log from the command line: train, evaluate, the benchmark."""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
from pathlib import Path

import pytest
from test_cli import RECGPT, ROOT, TINY, refused, run

from recgpt.model.checkpoint import load_checkpoint

BENCHMARK = (sys.executable, str(ROOT / "benchmarks" / "feedback_quality.py"))
COLUMNS = ("--user-column", "user_id", "--item-column", "video_id", "--time-column", "time_ms")
CLICKED = ("--clicked-column", "is_click")
NUM_USERS, NUM_ITEMS, NUM_SHOWN = 80, 80, 30

VARIANTS = ["pre-trained", "no prompts", "generated prompts", "real unclicked items", "real unclicked items, not sent"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in no order, of users who click two of three items; and a recipe that wants its feedback."""
    folder = tmp_path_factory.mktemp("feedback")
    rng = random.Random(0)
    rows = [
        f"{user}\t{item}\tx\t{time}\t{int(rng.random() < 0.67)}\n"
        for user in range(1, NUM_USERS + 1)
        for time, item in enumerate(rng.sample(range(NUM_ITEMS), NUM_SHOWN))
    ]
    rng.shuffle(rows)
    (folder / "log.tsv").write_text(f"user_id\tvideo_id\tdate\ttime_ms\tis_click\n{''.join(rows)}")
    (folder / "feedback.toml").write_text(f'prompts = "feedback"\n{TINY}')
    return folder


def test_training_and_evaluation_take_a_feedback_log(folder: Path) -> None:
    data = ("--data", "log.tsv", *COLUMNS)
    train = ("train", *data, *CLICKED, "--out", "run", "--epochs", 3, "--config", "feedback.toml")
    result = run(*RECGPT, *train, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    num_clicks = sum(line.endswith("\t1") for line in (folder / "log.tsv").read_text().splitlines())
    assert f"{NUM_USERS} users, {NUM_ITEMS} items, {num_clicks:,} interactions" in result.stdout
    state = load_checkpoint(folder / "run" / "ckpt.pt").training
    assert state.stage == "pretrained" or state.max_unclicked == 1
    result = run(*RECGPT, "evaluate", "run/ckpt.pt", *data, *CLICKED, "--json", "report.json", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads((folder / "report.json").read_text())["training"] == state.to_dict()
    # Without the column every row counts as an interaction: other data than the model was trained on.
    assert "DataError" in refused(*RECGPT, "evaluate", "run/ckpt.pt", *data, cwd=folder)


def test_the_benchmark_compares_the_same_users_in_every_row(folder: Path) -> None:
    result = run(*BENCHMARK, "--data", "log.tsv", "--quick", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    written = json.loads((folder / "benchmarks" / "results" / "feedback_quality.json").read_text())
    assert {"name", "created", "environment", "method", "rows"} == set(written)
    assert [(row["row"], row["quotas"]) for row in written["rows"]] == [
        (variant, quotas) for variant in VARIANTS for quotas in ([10], [9, 1])
    ]
    for row in written["rows"]:
        [ranks] = row["ranks"]
        assert len(ranks) == NUM_USERS
        assert row["mean"]["hr@10"] == pytest.approx(statistics.mean(1 <= rank <= 10 for rank in ranks))
        gains = [1 / math.log2(rank + 1) if 1 <= rank <= 5 else 0.0 for rank in ranks]
        assert row["mean"]["ndcg@5"] == pytest.approx(statistics.mean(gains))
        assert row["row"] in " ".join(result.stdout.split())
    assert written["method"]["parameters"]["num_users"] == NUM_USERS
