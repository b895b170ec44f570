"""What each step of the recipe brought, as models after stage 1 that differ by it alone. Rows are plain for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recgpt.bench.quality import ONE_STEP, over_seeds, rank_stages
from recgpt.bench.significance import compare_ranks
from recgpt.data.split import Split
from recgpt.model.checkpoint import Checkpoint
from recgpt.types import Int64Array


def measure_steps(recipes: Mapping[str, Sequence[Checkpoint]], split: Split) -> Iterator[dict[str, Any]]:
    """Ranks the targets by each recipe's models, in one step.

    Args:
        recipes: by name the models of one recipe, one a seed; in the order in which the steps were taken.
        split: of the data that all were trained on.

    Yields:
        Rows of ``row``, ``num_epochs`` by seed, of ``test`` and ``validation`` what ``over_seeds`` gives, and
        ``against``: on test the paired differences to the row before, by metric; empty in the first row.
    """
    before: list[Int64Array] = []
    for name, checkpoints in recipes.items():
        ranks = rank_stages(checkpoints, split, ONE_STEP)
        against = compare_ranks(np.stack(ranks["test"]), np.stack(before)) if before else {}
        yield {
            "row": name,
            "num_epochs": [checkpoint.training.num_epochs for checkpoint in checkpoints],
            **{stage: over_seeds(seeds) for stage, seeds in ranks.items()},
            "against": {metric: dataclasses.asdict(difference) for metric, difference in against.items()},
        }
        before = ranks["test"]
