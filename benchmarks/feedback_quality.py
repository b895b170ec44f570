"""Quality with real unclicked items in the histories, against generated prompts and against none, on KuaiRand.

Same split, same pre-trained model and same budget for each; writes a JSON with every user's rank.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recgpt.bench.environment import describe_environment
from recgpt.bench.feedback import Measured, measure_seed, show_feedback_quality, summarise_seeds
from recgpt.bench.results import write_json
from recgpt.cli import run_script
from recgpt.config import TrainingConfig, load_training_config
from recgpt.data.readers import load_interactions

NUM_QUICK_EPOCHS = 3
METHOD = """\
One pre-trained model a seed, on clicks alone. It is tuned without prompts, with generated ones, and with the real
unclicked items (at most num_prompts before each click, the newest), each with the same settings and patience; rows are
of the tuned models' best epochs on validation, whether these are better than the pre-trained model, and would be kept
by recgpt train, or not (num_better says of how many seeds they are). Of each user the last click tests, the one before
validates; histories hold what was shown before the target. Candidates are all items that were clicked at least five
times but for the user's own clicks, the same in all rows. Ties count against the model. not sent: the model of the row
before, and histories of clicks alone. ranks: of the test targets, by seed and user, the users in the same order in all
rows; 0 = not among the ten. The log holds only exposures that were liked or hated: click rates and differences in it
mean nothing outside it.
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def feedback_quality(
    data: Annotated[Path, typer.Option(help="kuairand_feedback.tsv.xz, or a log with its columns.")],
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/feedback_quality.json"),
    runs: Annotated[Path, typer.Option(help="Folder of the trained models; a stopped benchmark goes on.")] = Path(
        "artifacts/feedback_quality"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Models of each kind.")] = 3,
    quick: Annotated[bool, typer.Option(help="One seed and a few epochs: less than a minute.")] = False,
) -> None:
    """Trains, evaluates and compares the three kinds of histories."""
    console = Console()
    environment = describe_environment()
    interactions = load_interactions(
        data, user="user_id", item="video_id", timestamp="time_ms", clicked="is_click", min_count=5
    )
    recipe = _recipe(quick=quick)
    measured: list[Measured] = []
    for seed in range(1 if quick else seeds):
        folder = runs / ("quick" if quick else f"seed_{seed}")
        measured += measure_seed(
            interactions, replace(recipe, seed=seed), folder, data_name=data.name, progress=not quick
        )
    rows = summarise_seeds(measured)
    unclicked = interactions.unclicked or ()
    counts = {
        "num_users": interactions.num_users,
        "num_items": interactions.num_items,
        "num_clicks": interactions.num_interactions,
        "num_unclicked": sum(len(shown.item_rows) for shown in unclicked),
    }
    write_json(
        out,
        {
            "name": "feedback_quality",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": environment,
            "method": {
                "title": "Real unclicked items in the history",
                "text": " ".join(METHOD.split()),
                "parameters": {**counts, "data": data.name, "quick": quick, "config": asdict(recipe)},
            },
            "rows": rows,
        },
    )
    show_feedback_quality(rows, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _recipe(*, quick: bool) -> TrainingConfig:
    """The default preset, with smaller batches for so few users, and more time for tuning to show what it can do."""
    recipe = load_training_config()
    pretrain, tune = (
        replace(recipe.pretrain, batch_size=64),
        replace(recipe.tune, batch_size=64, max_epochs=50, patience=8, learning_rate=5e-4),
    )
    if quick:
        pretrain, tune = replace(pretrain, max_epochs=NUM_QUICK_EPOCHS), replace(tune, max_epochs=NUM_QUICK_EPOCHS)
    return replace(recipe, pretrain=pretrain, tune=tune)


if __name__ == "__main__":
    run_script(app)
