"""Recommendation quality on one data set: trains what is not trained yet, then ranks every test target.

Cut off, the same command goes on. Writes a JSON with all that the tables and plots of docs/quality.md are made of.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from recgpt.bench.environment import describe_environment
from recgpt.bench.quality import TWO_STEPS, measure_checkpoint, measure_runs
from recgpt.bench.quality_runs import QualityRuns
from recgpt.cli import console, run_script
from recgpt.config import load_training_config
from recgpt.data.readers import load_interactions
from recgpt.data.split import leave_one_out
from recgpt.files import atomic_path
from recgpt.model.checkpoint import load_checkpoint

HERE = Path(__file__).parent
RECIPES = HERE / "recipes"
BASELINE = RECIPES / "sasrec_bce.toml"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def recall_quality(
    dataset: Annotated[str, typer.Option(help="Name of the data set; its recipe is benchmarks/recipes/NAME.toml.")],
    data: Annotated[Path, typer.Option(help="Its sequence file.")],
    seeds: Annotated[int, typer.Option(min=1, help="Models of each kind.")] = 3,
    sweep_seeds: Annotated[int, typer.Option(min=1, help="Models for each number of prompts.")] = 1,
    checkpoint: Annotated[Path | None, typer.Option(help="Only evaluate this one.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the trained models.")] = Path("artifacts/quality"),
    out: Annotated[Path | None, typer.Option(help="JSON to write; else benchmarks/results/quality_NAME.json.")] = None,
) -> None:
    """Trains, evaluates, compares."""
    started, environment = time.perf_counter(), describe_environment()
    out = out or HERE / "results" / f"quality_{dataset}.json"
    interactions = load_interactions(data)
    split = leave_one_out(interactions)
    if checkpoint is not None:
        report = measure_checkpoint(load_checkpoint(checkpoint), split)
    else:
        recipe = load_training_config(path=RECIPES / f"{dataset}.toml")
        baseline = load_training_config(path=BASELINE)
        trained = QualityRuns(interactions, recipe, baseline, runs / dataset, data_name=data.name)
        report = measure_runs(trained, split, seeds=range(seeds), sweep_seeds=range(sweep_seeds))
    report = {
        "dataset": dataset,
        **report,
        "quotas": TWO_STEPS,
        "environment": environment,
        "seconds": round(time.perf_counter() - started),
    }
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_script(app)
