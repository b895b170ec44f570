"""The quality benchmark as a user would run it, on models that learn next to nothing in a second."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recgpt.data.readers import load_interactions
from recgpt.data.sequences import write_sequences
from recgpt.data.split import leave_one_out
from recgpt.data.synthetic import generate
from recgpt.evaluation import summarise
from recgpt.model.checkpoint import load_checkpoint
from recgpt.model.ensemble import ensemble
from recgpt.training.ranking import held_out_ranks

CHECKOUT = Path(__file__).resolve().parents[2]
BENCHMARKS = CHECKOUT / "benchmarks"
TINY = "[model]\nmax_length = 12\nhidden_size = 8\nnum_heads = 2\nffn_size = 16\n"
METRICS = {"hr@5", "hr@10", "ndcg@5", "ndcg@10"}


def run(folder: Path, *arguments: object, script: str = "recall_quality") -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(BENCHMARKS / f"{script}.py"),
        "--dataset",
        "tiny",
        "--data",
        "tiny.txt",
        *map(str, arguments),
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    write_sequences(folder / "tiny.txt", generate(num_users=60, num_items=120, seed=0))
    (folder / "tiny.toml").write_text(TINY)
    finished = run(folder, "--config", "tiny.toml", "--epochs", 1, "--seeds", 2, "--out", "quality.json")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder


@pytest.fixture(scope="module")
def report(folder):
    return json.loads((folder / "quality.json").read_text())


def test_every_system_has_its_metrics_and_the_seeded_ones_their_deviations(report):
    seeded = {"recgpt", "recgpt_1", "pretrain", "no_prompt_finetune", "variant_1", "finished"}
    single = {"ensemble", "recgpt_ensemble", "sasrec_bce", "pop"}
    assert set(report["metrics"]) == set(report["validation"]) == set(report["unmasked"]) == seeded | single
    assert set(report["deviations"]) == seeded  # of the others there is one
    for metrics in report["metrics"].values():
        assert set(metrics) == METRICS
        assert 0 <= metrics["ndcg@10"] <= metrics["hr@10"] <= 1


def test_means_are_over_the_seeds(report):
    for system, seeds in report["by_seed"].items():
        mean = sum(metrics["hr@10"] for metrics in seeds) / len(seeds)
        assert report["metrics"][system]["hr@10"] == pytest.approx(mean)


def test_what_the_recipe_leaves_is_the_better_on_validation_of_both_stages(report):
    for seed, epochs in enumerate(report["num_epochs"]["finished"]):
        assert epochs in (report["num_epochs"]["pretrain"][seed], report["num_epochs"]["recgpt"][seed])
    validation = report["validation"]
    assert validation["finished"]["ndcg@10"] >= validation["pretrain"]["ndcg@10"]
    assert validation["finished"]["ndcg@10"] >= validation["recgpt"]["ndcg@10"]


def test_the_ensemble_of_recgpt_is_of_the_tuned_models_in_two_steps(folder, report):
    tuned = [load_checkpoint(folder / f"artifacts/quality/tiny/seed_{seed}/prompts_1/tuned.pt") for seed in (0, 1)]
    ranks = held_out_ranks(ensemble(tuned).decoder, leave_one_out(load_interactions(folder / "tiny.txt")), (9, 1))
    assert report["metrics"]["recgpt_ensemble"] == pytest.approx(summarise(ranks))
    assert report["significance"][-1]["system"] == "recgpt_ensemble"


def test_both_sweeps_are_complete(report):
    assert [row["num_prompts"] for row in report["prompts"]] == [0, 1, 2, 3, 4, 5, 6]
    assert [tuple(row["quotas"]) for row in report["quotas_sweep"]] == [(10,), (9, 1), (8, 2), (7, 3), (6, 4), (5, 5)]


def test_the_exported_engine_is_as_good_as_the_model_it_was_made_from(report):
    of_first_seed = {"9,1": report["by_seed"]["recgpt"][0], "10": report["by_seed"]["recgpt_1"][0]}
    assert set(report["exported"]) == {"float32", "float16", "int8"}
    for precision, found in report["exported"].items():
        for quotas, expected in of_first_seed.items():
            metrics = {name: found[quotas][name] for name in expected}
            # One of 60 users may gain or lose a near-tie where vectors were rounded.
            tolerance = 0.02 if precision == "float16" else 1e-4
            assert metrics == pytest.approx(expected, abs=tolerance)
            assert found[quotas]["identical_lists"] >= (0.8 if precision == "float16" else 0.98)
    assert report["exported"]["float16"]["graph_bytes"] < report["exported"]["float32"]["graph_bytes"]


def test_what_was_trained_is_not_trained_again_and_one_checkpoint_can_be_evaluated_alone(folder, report):
    checkpoint = folder / "artifacts/quality/tiny/seed_0/prompts_1/tuned.pt"
    written = checkpoint.stat().st_mtime_ns
    finished = run(folder, "--checkpoint", checkpoint, "--out", "one.json")
    assert finished.returncode == 0, finished.stderr
    alone = json.loads((folder / "one.json").read_text())
    for system in ("recgpt", "recgpt_1"):
        assert alone["metrics"][system] == pytest.approx(report["by_seed"][system][0])
        assert set(alone["validation"][system]) == set(alone["unmasked"][system]) == METRICS
    assert alone["config"]["model"] == report["config"]["model"]
    assert checkpoint.stat().st_mtime_ns == written


def test_ensembles_are_of_both_kinds_of_models_and_chosen_on_validation(folder, report):
    (folder / "unsmoothed.toml").write_text(TINY + "[pretrain]\nsmoothing = 0.0\n[tune]\nmax_epochs = 0\n")
    recipes = ("--config", "tiny.toml", "--unsmoothed-config", "unsmoothed.toml", "--epochs", 1)
    arguments = (*recipes, "--seeds", 2, "--unsmoothed-seeds", 2, "--out", "ensembles_tiny.json")
    finished = run(folder, *arguments, script="ensembles")
    assert finished.returncode == 0, finished.stderr
    found = json.loads((folder / "ensembles_tiny.json").read_text())
    mixes = [(row["smoothed"], row["unsmoothed"]) for row in found["rows"]]
    assert mixes == [(0, 2), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    smoothed, best, both = found["tested"].values()
    assert best["validation"]["ndcg@10"] == max(row["validation"]["ndcg@10"] for row in found["rows"])
    assert (both["smoothed"], both["unsmoothed"]) == (2, 2)
    assert both["costs"]["hidden_size"] == 4 * found["single_costs"]["hidden_size"]
    # The ensemble of the recipe's models is the one that the quality report has.
    assert smoothed["validation"] == pytest.approx(report["validation"]["ensemble"])
    assert smoothed["test"] == pytest.approx(report["metrics"]["ensemble"])
    for row in (smoothed, best, both):
        difference = row["significance"]["hr@10"]
        assert difference["mean"] == pytest.approx(row["test"]["hr@10"])
        assert difference["baseline"] == pytest.approx(smoothed["test"]["hr@10"])


def test_each_step_of_the_recipe_is_compared_with_the_one_before(folder, report):
    once = "[tune]\nmax_epochs = 0\n"
    for name, changed in (("", ""), ("next_item", "[pretrain]\nfuture_share = 0.0\n" + once)):
        (folder / "recipes" / name).mkdir(parents=True)
        (folder / "recipes" / name / "tiny.toml").write_text(TINY + changed)
    (folder / "recipes/unsmoothed").mkdir()
    (folder / "recipes/unsmoothed/tiny.toml").write_text(TINY + "[pretrain]\nsmoothing = 0.0\n" + once)
    arguments = ("--recipes", "recipes", "--epochs", 1, "--seeds", 2, "--out", "recipe_steps_tiny.json")
    finished = run(folder, *arguments, script="recipe_steps")
    assert finished.returncode == 0, finished.stderr
    found = json.loads((folder / "recipe_steps_tiny.json").read_text())
    first, second, last = found["rows"]
    assert first["against"] == {}
    for row, before in ((second, first), (last, second)):
        assert row["against"]["hr@10"]["baseline"] == pytest.approx(before["test"]["mean"]["hr@10"])
        assert row["against"]["hr@10"]["mean"] == pytest.approx(row["test"]["mean"]["hr@10"])
    # The last recipe is the report's own.
    assert last["test"]["mean"] == pytest.approx(report["metrics"]["pretrain"])
    assert last["validation"]["mean"] == pytest.approx(report["validation"]["pretrain"])


def test_tables_and_plots_are_made_from_the_json_alone(folder, report, tmp_path):
    (tmp_path / "quality_tiny.json").write_text((folder / "quality.json").read_text())
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "report.py"), "--results", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    written = (tmp_path / "quality.md").read_text()
    assert "| RecGPT, two steps |" in written
    assert re.search(r"Stage 2 made the model better on validation for [012] of 2 seeds\.", written)
    assert written.count("| two steps beat one | Tiny | - |") == 1
    assert "![quality_quotas](quality_quotas.png)" in written
    for name in ("quality_prompts.png", "quality_quotas.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_a_report_of_nothing_says_what_to_run(tmp_path):
    command = [sys.executable, str(CHECKOUT / "benchmarks" / "report.py"), "--results", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 1
    assert "run benchmarks/recall_quality.py first" in finished.stderr
