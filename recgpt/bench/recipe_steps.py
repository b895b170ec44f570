"""What each step of the recipe brought, as models after stage 1 that differ by it alone. Rows are plain for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recgpt.bench.quality import ONE_STEP, VIEWS, Measured
from recgpt.bench.significance import compare_ranks
from recgpt.data.split import Split
from recgpt.model.checkpoint import Checkpoint
from recgpt.training.ranking import held_out_ranks
from recgpt.types import Int64Array


def measure_steps(recipes: Mapping[str, Sequence[Checkpoint]], split: Split) -> Iterator[dict[str, Any]]:
    """Ranks the targets by each recipe's models, in one step.

    Args:
        recipes: by name the models of one recipe, one a seed; in the order in which the steps were taken.
        split: of the data that all were trained on.

    Yields:
        Rows of ``row``, ``num_epochs`` by seed, of ``test`` and ``validation`` the ``mean`` and the ``deviation`` over
        seeds, and ``against``: on test the paired differences to the row before, by metric; empty in the first row.
    """
    before: list[Int64Array] = []
    for name, checkpoints in recipes.items():
        stages = {stage: Measured() for stage in ("test", "validation")}
        for stage, measured in stages.items():
            for checkpoint in checkpoints:
                measured.add(name, held_out_ranks(checkpoint.decoder, split, ONE_STEP, **VIEWS[stage]))
        ranks = stages["test"].ranks[name]
        against = compare_ranks(np.stack(ranks), np.stack(before)) if before else {}
        yield {
            "row": name,
            "num_epochs": [checkpoint.training.num_epochs for checkpoint in checkpoints],
            **{
                stage: {"mean": measured.means()[name], "deviation": measured.deviations().get(name, {})}
                for stage, measured in stages.items()
            },
            "against": {metric: dataclasses.asdict(difference) for metric, difference in against.items()},
        }
        before = ranks
