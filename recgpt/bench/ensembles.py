"""Ensembles of models that were trained in two ways: each mix on validation, some of them on test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from recgpt.bench.ensemble_costs import measure_costs
from recgpt.bench.quality import K
from recgpt.bench.quality_tables import MIXES
from recgpt.bench.significance import compare_ranks
from recgpt.data.split import Split, Stage
from recgpt.evaluation import summarise
from recgpt.model.checkpoint import Checkpoint
from recgpt.model.ensemble import ensemble
from recgpt.recall.merge import default_quotas
from recgpt.training.ranking import held_out_ranks
from recgpt.types import Int64Array


def measure_ensembles(
    smoothed: Sequence[Checkpoint], unsmoothed: Sequence[Checkpoint], split: Split, *, say: Callable[[str], None]
) -> dict[str, Any]:
    """Every mix of the first models of each kind on validation; three of them on test.

    Args:
        smoothed: of the recipe, by seed; two at least.
        unsmoothed: of the recipe without smoothing, of the same architecture and data.
        split: of the same data.
        say: told what is measured next.

    Returns:
        ``rows`` of ``smoothed`` and ``unsmoothed`` (numbers of members) and ``validation``; ``tested``, by ``MIXES``,
        the rows that were looked at on test, with ``test``, ``costs`` as ``measure_costs`` gives them, and the paired
        differences on test from the first, ``significance``; ``single_costs`` of one model.
    """

    def together(num_smoothed: int, num_unsmoothed: int) -> Checkpoint:
        return ensemble([*smoothed[:num_smoothed], *unsmoothed[:num_unsmoothed]])

    rows: list[dict[str, Any]] = []
    for mix in _mixes(len(smoothed), len(unsmoothed)):
        say("validation: {} smoothed, {} unsmoothed".format(*mix))
        found = summarise(_ranks(together(*mix), split, "validation"))
        rows.append({"smoothed": mix[0], "unsmoothed": mix[1], "validation": found})
    best = max(rows, key=lambda row: row["validation"]["ndcg@10"])
    tested = ((len(smoothed), 0), (best["smoothed"], best["unsmoothed"]), (len(smoothed), len(unsmoothed)))
    # The best may be one of the others; each is measured once.
    models = {mix: together(*mix) for mix in tested}
    say("test, and what these cost: " + ", ".join(MIXES))
    ranks = {mix: _ranks(model, split, "test") for mix, model in models.items()}
    single, *costs = measure_costs([smoothed[0], *models.values()], k=K)
    found_on_test = {
        mix: {
            "test": summarise(ranks[mix]),
            "costs": cost,
            "significance": _significance(ranks[mix], baseline=ranks[tested[0]]),
        }
        for mix, cost in zip(models, costs, strict=True)
    }
    by_members = {(row["smoothed"], row["unsmoothed"]): row for row in rows}
    return {
        "rows": rows,
        "tested": {rule: by_members[mix] | found_on_test[mix] for rule, mix in zip(MIXES, tested, strict=True)},
        "single_costs": single,
    }


def _significance(ranks: Int64Array, *, baseline: Int64Array) -> dict[str, Any]:
    return {metric: dataclasses.asdict(found) for metric, found in compare_ranks(ranks, baseline).items()}


def _ranks(checkpoint: Checkpoint, split: Split, stage: Stage) -> Int64Array:
    """In the default number of steps, as whoever takes the checkpoint recalls."""
    quotas = default_quotas(K, prompt_tuned=checkpoint.training.is_prompt_tuned)
    return held_out_ranks(checkpoint.decoder, split, quotas, stage=stage)


def _mixes(num_smoothed: int, num_unsmoothed: int) -> Iterator[tuple[int, int]]:
    for smoothed in range(num_smoothed + 1):
        for unsmoothed in range(num_unsmoothed + 1):
            if smoothed + unsmoothed > 1:
                yield smoothed, unsmoothed
