"""Recommendation quality on one data set: trains what is not trained yet, then ranks every test target.

Cut off, the same command goes on. Writes a JSON with all that benchmarks/report.py makes tables and plots of.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from recgpt.bench.environment import describe_environment
from recgpt.bench.quality import TWO_STEPS, measure_checkpoint, measure_runs
from recgpt.bench.quality_runs import QualityRuns
from recgpt.bench.quality_tables import show_quality
from recgpt.bench.results import write_json
from recgpt.cli import console, run_script
from recgpt.config import load_training_config
from recgpt.data.readers import load_interactions
from recgpt.data.split import leave_one_out
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
    sweep_seeds: Annotated[int, typer.Option(min=0, help="Models for each number of prompts; 0 leaves these out.")] = 1,
    checkpoint: Annotated[Path | None, typer.Option(help="Only evaluate this one.")] = None,
    config: Annotated[Path | None, typer.Option(help="Another recipe, laid over the default preset.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Upper bound for each stage's epochs.")] = None,
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
        recipe = load_training_config(path=config or RECIPES / f"{dataset}.toml")
        baseline = load_training_config(path=BASELINE)
        trained = QualityRuns(interactions, recipe, runs / dataset, data_name=data.name, max_epochs=epochs)
        report = measure_runs(trained, baseline, split, seeds=range(seeds), sweep_seeds=range(sweep_seeds))
    report = {
        "dataset": dataset,
        **report,
        "quotas": TWO_STEPS,
        "environment": environment,
        "seconds": round(time.perf_counter() - started),
    }
    write_json(out, report)
    show_quality(report, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_script(app)
