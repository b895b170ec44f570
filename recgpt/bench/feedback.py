"""What real unclicked items are worth in a history: one model tuned with them, with generated ones, and without.

Knows how the variants are trained and evaluated; nothing of files of data or of the command.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recgpt.config import TrainingConfig
from recgpt.data.interactions import Interactions
from recgpt.data.split import Split, Stage, leave_one_out
from recgpt.eager import eager_recaller
from recgpt.evaluation import Metrics, evaluate_lists, summarise
from recgpt.files import atomic_path
from recgpt.model.checkpoint import Checkpoint, load_checkpoint
from recgpt.training.module import NDCG
from recgpt.training.run_folder import RunFolder
from recgpt.training.trainer import train
from recgpt.training_state import FEEDBACK, GENERATED
from recgpt.types import Int64Array

QUOTAS = ((10,), (9, 1))
METRICS = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")

_PRETRAINED = "pre-trained"
_TUNED: Mapping[str, Mapping[str, Any]] = {
    "no prompts": {"num_prompts": 0},
    "generated prompts": {"prompts": GENERATED},
    "real unclicked items": {"prompts": FEEDBACK},
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One seed of one variant, recalled with one choice of quotas.

    Attributes:
        variant: how the model was tuned, and what its histories hold.
        quotas: items from each step.
        seed: of the training.
        num_epochs: of both stages together, that went into the weights.
        is_better: whether the model is better on validation than the pre-trained one, so that training would keep it.
        metrics: of the test targets.
        validation: of the validation targets.
        ranks: (N,) int64, of the test targets by user: 1-based, 0 = not in the list.
    """

    variant: str
    quotas: tuple[int, ...]
    seed: int
    num_epochs: int
    is_better: bool
    metrics: Metrics
    validation: Metrics
    ranks: Int64Array


def measure_seed(
    interactions: Interactions, config: TrainingConfig, folder: Path, *, data_name: str, progress: bool
) -> Iterator[Measured]:
    """Trains the variants of one seed, all from one pre-trained model with one budget, and evaluates them.

    Args:
        interactions: with their unclicked items.
        config: the recipe; its prompts are replaced.
        folder: of the runs; a run that was stopped goes on.
        data_name: what to call the data.
        progress: show the training's progress.

    Yields:
        Each variant with each of ``QUOTAS``. The last variant has the weights of the one before it, and histories
        without the unclicked items.

    Raises:
        ConfigError: the interactions have no unclicked items, or ``folder`` holds other runs.
    """
    split = leave_one_out(interactions)
    only_first = dataclasses.replace(config, tune=dataclasses.replace(config.tune, max_epochs=0))
    path = train(interactions, only_first, folder / _name(_PRETRAINED), data_name=data_name, progress=progress)
    pretrained = load_checkpoint(path)
    yield from _measure(_PRETRAINED, pretrained, pretrained, split, max_unclicked=0)
    for variant, prompts in _TUNED.items():
        run = RunFolder(folder / _name(variant))
        if not run.pretrained.exists():
            with atomic_path(run.pretrained) as temporary:
                temporary.write_bytes(path.read_bytes())
        recipe = dataclasses.replace(config, **prompts)
        train(interactions, recipe, run.path, data_name=data_name, progress=progress)
        tuned = load_checkpoint(run.tuned)
        yield from _measure(variant, tuned, pretrained, split, max_unclicked=tuned.training.max_unclicked)
    yield from _measure(f"{variant}, not sent", tuned, pretrained, split, max_unclicked=0)


def summarise_seeds(measured: Iterable[Measured]) -> list[dict[str, Any]]:
    """Rows of the result: mean and deviation over the seeds of each variant with each choice of quotas."""
    groups: dict[tuple[str, tuple[int, ...]], list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.variant, one.quotas), []).append(one)
    return [_row(group) for group in groups.values()]


def _row(measured: Sequence[Measured]) -> dict[str, Any]:
    return {
        "row": measured[0].variant,
        "quotas": list(measured[0].quotas),
        "seeds": [one.seed for one in measured],
        "num_epochs": [one.num_epochs for one in measured],
        "num_better": sum(one.is_better for one in measured),
        "mean": {name: statistics.mean(one.metrics[name] for one in measured) for name in METRICS},
        "deviation": {name: _deviation([one.metrics[name] for one in measured]) for name in METRICS},
        "validation": {name: statistics.mean(one.validation[name] for one in measured) for name in METRICS},
        "metrics": [one.metrics for one in measured],
        "ranks": [one.ranks.tolist() for one in measured],
    }


def show_feedback_quality(rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The table of a result: test metrics, mean and deviation over seeds."""
    table = Table("model", "quotas", "better", *METRICS, title="test, full ranking, behaviours left out", box=None)
    for row in rows:
        deviations = {name: "" if value is None else f" +-{value:.4f}" for name, value in row["deviation"].items()}
        values = [f"{row['mean'][name]:.4f}{deviations[name]}" for name in METRICS]
        better = f"{row['num_better']}/{len(row['seeds'])}"
        table.add_row(row["row"], ",".join(map(str, row["quotas"])), better, *values)
    console.print(table)


def _measure(
    variant: str, checkpoint: Checkpoint, pretrained: Checkpoint, split: Split, *, max_unclicked: int
) -> Iterator[Measured]:
    recaller = eager_recaller(checkpoint)

    def ranks(stage: Stage, quotas: tuple[int, ...]) -> Int64Array:
        return evaluate_lists(recaller, split, stage=stage, quotas=quotas, max_unclicked=max_unclicked).ranks

    for quotas in QUOTAS:
        found = ranks("test", quotas)
        yield Measured(
            variant=variant,
            quotas=quotas,
            seed=checkpoint.training.seed,
            num_epochs=checkpoint.training.num_epochs,
            is_better=checkpoint.training.validation[NDCG] > pretrained.training.validation[NDCG],
            metrics=summarise(found),
            validation=summarise(ranks("validation", quotas)),
            ranks=found,
        )


def _name(variant: str) -> str:
    return variant.replace(" ", "_").replace("-", "_")


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
