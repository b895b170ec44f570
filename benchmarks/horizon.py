"""What two and more steps are for: the last three items of each user, found by lists of one to six steps.

Trains on what precedes them (or takes a checkpoint that was), measures on the test users, writes a JSON and a plot.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from recgpt.bench.environment import describe_environment
from recgpt.bench.horizon import measure_horizon, plot_horizon, quotas_of
from recgpt.bench.results import write_json
from recgpt.cli import run_script
from recgpt.config import load_training_config
from recgpt.data.readers import load_interactions
from recgpt.data.split import leave_last_out, without_later_targets
from recgpt.eager import eager_recaller
from recgpt.evaluation_report import check_same_data
from recgpt.model.checkpoint import load_checkpoint
from recgpt.training.run_folder import RunFolder
from recgpt.training.trainer import train

NUM_TARGETS = 3
METHOD = """\
Of each user with at least five items the last three are the targets, the one before them validates, the rest trains,
in both stages; lists are recalled for the history before the targets, seen items left out. recall@k: share of a user's
distinct targets in the first k. against_one_step, against_quotas: paired by user. Quotas weigh the steps in the merges
probability and reciprocal_rank.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def horizon(
    data: Annotated[Path, typer.Option(help="Sequence file.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Trained by this script; else it trains one.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder to train in; else artifacts/horizon_<data>.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the default recipe.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Upper bound for each stage's epochs.")] = None,
    k: Annotated[int, typer.Option(help="Length of the lists, a multiple of ten.")] = 10,
    out: Annotated[Path | None, typer.Option(help="JSON; else benchmarks/results/horizon_<data>.json.")] = None,
) -> None:
    """Measures lists of 1, 2, 4 and 6 steps against the last three items."""
    console, compared = Console(), quotas_of(k)
    name = data.name.partition(".")[0]
    out = out or Path(f"benchmarks/results/horizon_{name}.json")
    environment, interactions = describe_environment(), load_interactions(data)
    known = without_later_targets(interactions, num_targets=NUM_TARGETS)
    if checkpoint is None:
        folder = run or Path(f"artifacts/horizon_{name}")
        recipe = load_training_config("default", config)
        train(known, recipe, folder, data_name=f"{data.name}, horizon left out", max_epochs=epochs)
        checkpoint = RunFolder(folder).tuned
    model = load_checkpoint(checkpoint)
    check_same_data(model, known)
    split = leave_last_out(interactions, num_targets=NUM_TARGETS)
    say = partial(console.print, style="dim", highlight=False)
    rows = measure_horizon(eager_recaller(model), split, compared, say=say)
    result = {
        "name": "horizon",
        "dataset": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment,
        "method": {
            "title": f"{name.capitalize()}: the last {NUM_TARGETS} items in lists of {k}",
            "text": " ".join(METHOD.split()),
            "num_users": int((split.test > 0).sum()),
            "training": model.training.to_dict(),
        },
        "rows": rows,
    }
    write_json(out, result)
    plot_horizon(out, out.with_suffix(".png"))
    console.print(_table(rows, k))
    console.print(f"wrote {out} and {out.with_suffix('.png')}", markup=False, soft_wrap=True)


def _table(rows: list[dict[str, Any]], k: int) -> Table:
    columns = {
        f"recall@{k}": f"recall@{k}",
        "distance": "intra_list_distance",
        "coverage": "coverage",
        "popular": "popular_share",
        "outside": "outside_one_step",
    }
    table = Table("quotas", "merge", *columns, box=None)
    for row in rows:
        metrics = (f"{row[metric]:.4f}" for metric in columns.values())
        table.add_row(",".join(map(str, row["quotas"])), row["merge"], *metrics)
    return table


if __name__ == "__main__":
    run_script(app)
