"""What the last steps of the recipe brought on one data set: item vectors that lean on others, and later targets.

Takes the models of benchmarks/recall_quality.py and benchmarks/ensembles.py where they are trained, and trains what is
missing; cut off, the same command goes on. Writes a JSON that benchmarks/report.py makes a table of.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from recgpt.bench.environment import describe_environment
from recgpt.bench.quality_runs import QualityRuns
from recgpt.bench.quality_tables import METRICS, number
from recgpt.bench.recipe_steps import measure_steps
from recgpt.bench.results import write_json
from recgpt.cli import console, run_script
from recgpt.config import load_training_config
from recgpt.data.readers import load_interactions
from recgpt.data.split import leave_one_out

HERE = Path(__file__).parent

# Of each recipe its file in benchmarks/recipes, and its folder beside the models of the last one.
STEPS = {
    "neither": ("unsmoothed/{}.toml", "unsmoothed"),
    "item vectors lean on those of the items around them": ("next_item/{}.toml", "next_item"),
    "targets beyond the next item as well": ("{}.toml", "."),
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def recipe_steps(
    dataset: Annotated[str, typer.Option(help="Name of the data set, as of its recipes in the folder of recipes.")],
    data: Annotated[Path, typer.Option(help="Its sequence file.")],
    seeds: Annotated[int, typer.Option(min=1, help="Models of each recipe.")] = 3,
    recipes: Annotated[Path, typer.Option(help="Folder of the recipes.")] = HERE / "recipes",
    epochs: Annotated[int | None, typer.Option(min=1, help="Upper bound for the epochs.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the trained models.")] = Path("artifacts/quality"),
    out: Annotated[Path | None, typer.Option(help="JSON; else benchmarks/results/recipe_steps_NAME.json.")] = None,
) -> None:
    """Trains stage 1 by each recipe where that is missing, ranks all held-out targets, and compares in turn."""
    started, environment = time.perf_counter(), describe_environment()
    out = out or HERE / "results" / f"recipe_steps_{dataset}.json"
    interactions = load_interactions(data)
    models, configs = {}, {}
    for name, (file, folder) in STEPS.items():
        recipe = load_training_config(path=recipes / file.format(dataset))
        found = QualityRuns(interactions, recipe, runs / dataset / folder, data_name=data.name, max_epochs=epochs)
        models[name] = [found.pretrained(seed) for seed in range(seeds)]
        configs[name] = recipe.to_dict()
    report = {
        "dataset": dataset,
        "seeds": list(range(seeds)),
        "rows": list(measure_steps(models, leave_one_out(interactions))),
        "configs": configs,
        "environment": environment,
        "seconds": round(time.perf_counter() - started),
    }
    write_json(out, report)
    console.print(_table(report))
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _table(report: dict[str, Any]) -> Table:
    table = Table("test", *METRICS, title=f"{report['dataset']}, after stage 1", box=None)
    for row in report["rows"]:
        means, deviations = row["test"]["mean"], row["test"].get("deviation", {})
        table.add_row(row["row"], *(number(means[metric], deviations.get(metric)) for metric in METRICS))
    return table


if __name__ == "__main__":
    run_script(app)
