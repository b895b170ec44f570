"""Ensembles of models that were trained in two ways: which mix is best on validation, and what it is worth on test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from recgpt.bench.ensemble_costs import measure_costs
from recgpt.bench.quality import K
from recgpt.bench.significance import compare_ranks
from recgpt.data.split import Split, Stage
from recgpt.evaluation import summarise
from recgpt.model.checkpoint import Checkpoint
from recgpt.model.ensemble import ensemble
from recgpt.recall.merge import default_quotas
from recgpt.training.ranking import held_out_ranks
from recgpt.types import Int64Array

CHOSEN_BY = "ndcg@10"


def measure_ensembles(
    smoothed: Sequence[Checkpoint], unsmoothed: Sequence[Checkpoint], split: Split, *, say: Callable[[str], None]
) -> dict[str, Any]:
    """Every mix of the first models of each kind on validation; the best, and that of the first kind alone, on test.

    Args:
        smoothed: of the recipe, by seed; two at least.
        unsmoothed: of the recipe without smoothing, of the same architecture and data.
        split: of the same data.
        say: told what is measured next.

    Returns:
        ``rows`` of ``smoothed``, ``unsmoothed`` (numbers of members) and ``validation``; ``chosen``, the best of them,
        and ``baseline``, that of all smoothed ones and no other, with ``test`` as well; ``significance``: their paired
        differences on test; ``costs`` of both and of a ``single`` model, as ``measure_costs`` gives them.
    """

    def together(num_smoothed: int, num_unsmoothed: int) -> Checkpoint:
        return ensemble([*smoothed[:num_smoothed], *unsmoothed[:num_unsmoothed]])

    rows: list[dict[str, Any]] = []
    for mix in _mixes(len(smoothed), len(unsmoothed)):
        say("validation: {} smoothed, {} unsmoothed".format(*mix))
        found = summarise(_ranks(together(*mix), split, "validation"))
        rows.append({"smoothed": mix[0], "unsmoothed": mix[1], "validation": found})
    best = max(rows, key=lambda row: row["validation"][CHOSEN_BY])
    baseline = next(row for row in rows if (row["smoothed"], row["unsmoothed"]) == (len(smoothed), 0))
    tested = {
        name: together(row["smoothed"], row["unsmoothed"]) for name, row in (("chosen", best), ("baseline", baseline))
    }
    say("test: the best of these, and that of all smoothed; what they cost")
    ranks = [_ranks(model, split, "test") for model in tested.values()]
    return {
        "rows": rows,
        "chosen": best | {"test": summarise(ranks[0])},
        "baseline": baseline | {"test": summarise(ranks[1])},
        "costs": measure_costs({"single": smoothed[0], **tested}, k=K),
        "significance": {metric: dataclasses.asdict(found) for metric, found in compare_ranks(*ranks).items()},
    }


def _ranks(checkpoint: Checkpoint, split: Split, stage: Stage) -> Int64Array:
    """In the default number of steps, as whoever takes the checkpoint recalls."""
    quotas = default_quotas(K, prompt_tuned=checkpoint.training.is_prompt_tuned)
    return held_out_ranks(checkpoint.decoder, split, quotas, stage=stage)


def _mixes(num_smoothed: int, num_unsmoothed: int) -> Iterator[tuple[int, int]]:
    for smoothed in range(num_smoothed + 1):
        for unsmoothed in range(num_unsmoothed + 1):
            if smoothed + unsmoothed > 1:
                yield smoothed, unsmoothed
