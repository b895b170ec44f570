"""The table that ``recgpt evaluate`` shows, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from recgpt.data.interactions import Interactions
from recgpt.data.split import leave_one_out
from recgpt.eager import eager_recaller
from recgpt.errors import DataError
from recgpt.evaluation import Metrics, evaluate, evaluate_popularity
from recgpt.files import atomic_path
from recgpt.model.checkpoint import Checkpoint

METRICS = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")


def evaluate_checkpoint(
    checkpoint: Checkpoint, interactions: Interactions, quotas: Sequence[tuple[int, ...]], *, console: Console
) -> dict[str, Any]:
    """Evaluates a checkpoint on the test split and prints the table.

    Args:
        checkpoint: the model.
        interactions: the data it was trained on; the same users and items.
        quotas: one row of the table each; a single quota is the paper's RecGPT_1, several are RecGPT.
        console: where table and progress go.

    Returns:
        ``{"rows": [{"name", "quotas", "hr@5", "hr@10", "ndcg@5", "ndcg@10"}], "training": ...}``.

    Raises:
        DataError: the data has other users or items than the checkpoint.
    """
    check_same_data(checkpoint, interactions)
    split = leave_one_out(interactions)
    recaller = eager_recaller(checkpoint)
    rows = [_row("PopRec", None, evaluate_popularity(recaller, split))]
    with Progress(console=console, transient=True) as progress:
        for row_quotas in quotas:
            name = "RecGPT_1" if len(row_quotas) == 1 else "RecGPT"
            metrics = evaluate(
                recaller,
                split,
                quotas=row_quotas,
                max_unclicked=checkpoint.training.max_unclicked,
                progress=_progress_row(progress, name, row_quotas),
            )
            rows.append(_row(name, row_quotas, metrics))
    console.print(_table(rows, checkpoint, int(np.count_nonzero(split.test))))
    return {"rows": rows, "training": checkpoint.training.to_dict()}


def write_report(report: dict[str, Any], path: Path) -> None:
    """Writes the report as JSON, wholly or not at all; OutputError if it cannot."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")


def _progress_row(progress: Progress, name: str, quotas: tuple[int, ...]) -> Callable[[int, int], None]:
    task = progress.add_task(f"{name} {','.join(map(str, quotas))}", total=None)

    def update(done: int, total: int) -> None:
        progress.update(task, completed=done, total=total)

    return update


def _row(name: str, quotas: tuple[int, ...] | None, metrics: Metrics) -> dict[str, Any]:
    return {"name": name, "quotas": quotas, **metrics}


def _table(rows: list[dict[str, Any]], checkpoint: Checkpoint, num_users: int) -> Table:
    stage = checkpoint.training.stage.replace("_", "-")
    table = Table("model", "quotas", *METRICS, title=f"test, {num_users:,} users, full ranking, {stage}")
    for row in rows:
        quotas = ",".join(map(str, row["quotas"])) if row["quotas"] else ""
        table.add_row(row["name"], quotas, *(f"{row[metric]:.4f}" for metric in METRICS))
    return table


def check_same_data(checkpoint: Checkpoint, interactions: Interactions) -> None:
    """Raises DataError unless these are the users, the items and the interactions that the model was trained with."""
    for what, trained, given in (
        ("items", checkpoint.item_ids, interactions.item_ids),
        ("users", checkpoint.user_ids, interactions.user_ids),
    ):
        if trained.ids != given.ids:
            raise DataError(
                f"the data's {len(given):,} {what} are not the {len(trained):,} {what} the checkpoint was trained on; "
                "pass the file (and the options) that the model was trained with"
            )
    trained_on = checkpoint.training.data_sha256
    if trained_on and trained_on != interactions.digest():
        raise DataError(
            f"the data has the users and items of {checkpoint.training.data}, on which the checkpoint was trained, but "
            "other interactions, so what it holds out may have been trained on; pass the file it was trained with"
        )
