"""Ensembles on one data set: models of the recipe, models without smoothing, and mixes of the two.

Takes the models of benchmarks/recall_quality.py where they are trained, and trains what is missing; cut off, the same
command goes on. Writes a JSON that benchmarks/report.py makes a table of.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from recgpt.bench.ensembles import measure_ensembles
from recgpt.bench.environment import describe_environment
from recgpt.bench.quality_runs import QualityRuns
from recgpt.bench.quality_tables import METRICS, number
from recgpt.bench.results import write_json
from recgpt.cli import console, run_script
from recgpt.config import load_training_config
from recgpt.data.readers import load_interactions
from recgpt.data.split import leave_one_out

HERE = Path(__file__).parent
RECIPES = HERE / "recipes"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def ensembles(
    dataset: Annotated[
        str, typer.Option(help="Name of the data set; recipes are benchmarks/recipes/[unsmoothed/]NAME.toml.")
    ],
    data: Annotated[Path, typer.Option(help="Its sequence file.")],
    seeds: Annotated[int, typer.Option(min=2, help="Models of the recipe.")] = 3,
    unsmoothed_seeds: Annotated[int, typer.Option(min=1, help="Models without smoothing.")] = 3,
    config: Annotated[Path | None, typer.Option(help="Another recipe, laid over the default preset.")] = None,
    unsmoothed_config: Annotated[Path | None, typer.Option(help="Another one without smoothing.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Upper bound for each stage's epochs.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the trained models.")] = Path("artifacts/quality"),
    out: Annotated[Path | None, typer.Option(help="JSON; else benchmarks/results/ensembles_NAME.json.")] = None,
) -> None:
    """Trains what is missing, ranks validation targets by every mix, and test targets by three."""
    started, environment = time.perf_counter(), describe_environment()
    out = out or HERE / "results" / f"ensembles_{dataset}.json"
    recipe = load_training_config(path=config or RECIPES / f"{dataset}.toml")
    unsmoothed = load_training_config(path=unsmoothed_config or RECIPES / "unsmoothed" / f"{dataset}.toml")
    interactions = load_interactions(data)
    folder, train = runs / dataset, partial(QualityRuns, interactions, data_name=data.name, max_epochs=epochs)
    ours, others = train(recipe, folder), train(unsmoothed, folder / "unsmoothed")
    report = {
        "dataset": dataset,
        **measure_ensembles(
            [ours.finished(seed) for seed in range(seeds)],
            [others.pretrained(seed) for seed in range(unsmoothed_seeds)],
            leave_one_out(interactions),
            say=partial(console.print, style="dim", highlight=False),
        ),
        "config": recipe.to_dict(),
        "unsmoothed_config": unsmoothed.to_dict(),
        "environment": environment,
        "seconds": round(time.perf_counter() - started),
    }
    write_json(out, report)
    console.print(_table(report))
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _table(report: dict[str, Any]) -> Table:
    table = Table("", "smoothed", "unsmoothed", *METRICS, title=report["dataset"], box=None)
    for stage, rows in (("validation", report["rows"]), ("test", report["tested"].values())):
        for row in rows:
            counts = (str(row["smoothed"]), str(row["unsmoothed"]))
            table.add_row(stage, *counts, *(number(row[stage][metric]) for metric in METRICS))
    return table


if __name__ == "__main__":
    run_script(app)
