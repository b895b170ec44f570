"""Everything a quality report says of one data set, from the ranks of its held-out targets.

Models are trained and chosen on validation targets alone; test targets are looked at here, once per finished model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np

from recgpt.bench.quality_export import measure_exported
from recgpt.bench.quality_runs import QualityRuns, Trained
from recgpt.bench.quality_tables import (
    BCE,
    ENSEMBLE,
    FINISHED,
    NO_PROMPTS,
    POP,
    PRETRAIN,
    RECGPT,
    RECGPT_1,
    RECGPT_ENSEMBLE,
    VARIANT_1,
)
from recgpt.bench.significance import compare_ranks
from recgpt.config import TrainingConfig
from recgpt.data.split import Split, Stage
from recgpt.eager import eager_recaller
from recgpt.evaluation import Metrics, popularity_ranks, summarise
from recgpt.model.checkpoint import Checkpoint
from recgpt.model.ensemble import ensemble
from recgpt.recall.merge import default_quotas
from recgpt.training.ranking import held_out_ranks
from recgpt.types import Int64Array

K = 10
ONE_STEP = (K,)
TWO_STEPS = default_quotas(K, prompt_tuned=True)
QUOTAS = ((10,), (9, 1), (8, 2), (7, 3), (6, 4), (5, 5))
NUM_PROMPTS = (0, 1, 2, 3, 4, 5, 6)

# What is better than what, if the differences say so.
CLAIMS = (
    (RECGPT, RECGPT_1),
    (RECGPT, NO_PROMPTS),
    (RECGPT, PRETRAIN),
    (RECGPT_1, NO_PROMPTS),
    (NO_PROMPTS, PRETRAIN),
    (VARIANT_1, PRETRAIN),
    (RECGPT, BCE),
    (ENSEMBLE, FINISHED),
    (RECGPT_ENSEMBLE, ENSEMBLE),
)

STAGES: tuple[Stage, Stage] = ("test", "validation")

TEST, VALIDATION, UNMASKED = "test", "validation", "unmasked"


class View(TypedDict):
    """What is ranked, and among what."""

    stage: Stage
    filter_seen: bool


# Of every system: test and validation targets among unseen items, and test targets among all items.
VIEWS: Mapping[str, View] = {
    TEST: {"stage": "test", "filter_seen": True},
    VALIDATION: {"stage": "validation", "filter_seen": True},
    UNMASKED: {"stage": "test", "filter_seen": False},
}

Statistic = Callable[[Sequence[float]], float]


@dataclass(frozen=True)
class Measured:
    """Ranks of the held-out targets of one view, by system, one array a seed."""

    ranks: dict[str, list[Int64Array]] = field(default_factory=dict)

    def add(self, system: str, ranks: Int64Array) -> None:
        """One more seed of a system."""
        self.ranks.setdefault(system, []).append(ranks)

    def means(self) -> dict[str, Metrics]:
        """Over the seeds."""
        return {name: _over_seeds(seeds, np.mean) for name, seeds in self.ranks.items()}

    def deviations(self) -> dict[str, Metrics]:
        """Standard deviations over the seeds (n - 1), of the systems that have several."""
        return {name: _over_seeds(seeds, _deviation) for name, seeds in self.ranks.items() if len(seeds) > 1}

    def by_seed(self) -> dict[str, list[Metrics]]:
        """What the means are made of."""
        return {name: [summarise(ranks) for ranks in seeds] for name, seeds in self.ranks.items()}

    def comparisons(self) -> list[dict[str, Any]]:
        """Each claim's difference, paired over users."""
        rows = []
        for system, baseline in CLAIMS:
            if system in self.ranks and baseline in self.ranks:
                found = compare_ranks(np.stack(self.ranks[system]), np.stack(self.ranks[baseline]))
                metrics = {metric: dataclasses.asdict(difference) for metric, difference in found.items()}
                rows.append({"system": system, "baseline": baseline, **metrics})
        return rows


class Systems:
    """Every system in every view.

    Args:
        split: that all of them are ranked on.
    """

    def __init__(self, split: Split) -> None:
        self._split = split
        self._views = {name: Measured() for name in VIEWS}

    def add(self, system: str, checkpoint: Checkpoint, quotas: Sequence[int] | None = None) -> None:
        """One more seed of a system; without quotas in the model's default number of steps."""
        steps = quotas or default_quotas(K, prompt_tuned=checkpoint.training.is_prompt_tuned)
        for name, view in VIEWS.items():
            self._views[name].add(system, held_out_ranks(checkpoint.decoder, self._split, steps, **view))

    def add_popularity(self, checkpoint: Checkpoint) -> None:
        """The most popular items, as any model of the data knows them."""
        recaller = eager_recaller(checkpoint)
        for name, view in VIEWS.items():
            self._views[name].add(POP, popularity_ranks(recaller, self._split, **view))

    def facts(self) -> dict[str, Any]:
        """What a report says of them."""
        measured = self._views[TEST]
        return {
            "metrics": measured.means(),
            "deviations": measured.deviations(),
            "by_seed": measured.by_seed(),
            "validation": self._views[VALIDATION].means(),
            "unmasked": self._views[UNMASKED].means(),
            "significance": measured.comparisons(),
        }


def measure_runs(
    runs: QualityRuns, baseline: TrainingConfig, split: Split, *, seeds: Sequence[int], sweep_seeds: Sequence[int]
) -> dict[str, Any]:
    """The whole report of a data set, training what is not trained yet.

    Args:
        runs: gives the models.
        baseline: recipe of SASRec with binary cross entropy.
        split: of the same data.
        seeds: of the headline and of the quotas; means and deviations are over them.
        sweep_seeds: of the numbers of prompts; none leaves these out.
    """
    trained = [runs.trained(seed) for seed in seeds]
    systems = _measure_systems(trained, runs.sasrec_bce(seeds[0], baseline), split)
    return {
        **systems.facts(),
        "seeds": list(seeds),
        "num_prompts": runs.recipe.num_prompts,
        "num_epochs": {
            PRETRAIN: [models.pretrained.training.num_epochs for models in trained],
            RECGPT: [models.tuned.training.num_epochs for models in trained],
            FINISHED: [models.finished.training.num_epochs for models in trained],
        },
        **({"prompts": _sweep_prompts(runs, split, sweep_seeds)} if sweep_seeds else {}),
        "sweep_seeds": list(sweep_seeds),
        **_measure_tuned([models.tuned for models in trained], split),
        "config": runs.recipe.to_dict(),
        "baseline_config": baseline.to_dict(),
    }


def measure_checkpoint(checkpoint: Checkpoint, split: Split) -> dict[str, Any]:
    """What can be said of one finished model."""
    systems = Systems(split)
    systems.add(RECGPT, checkpoint, TWO_STEPS)
    systems.add(RECGPT_1, checkpoint, ONE_STEP)
    systems.add_popularity(checkpoint)
    return {
        **systems.facts(),
        "seeds": [checkpoint.training.seed],
        "num_prompts": checkpoint.training.num_prompts,
        **_measure_tuned([checkpoint], split),
        "config": checkpoint.training.recipe,
    }


def _measure_tuned(checkpoints: Sequence[Checkpoint], split: Split) -> dict[str, Any]:
    """What follows from tuned models alone; the first is exported."""
    return {
        "quotas_sweep": _sweep_quotas(checkpoints, split),
        "exported": measure_exported(checkpoints[0], split, (TWO_STEPS, ONE_STEP)),
    }


def _measure_systems(trained: Sequence[Trained], baseline: Checkpoint, split: Split) -> Systems:
    """The headline: RecGPT in two steps and in one, and what leaves out one idea or the other.

    ``variant_1`` is the paper's Table 3: two steps of a model that was only pre-trained. ``finished`` is what a user of
    the recipe gets, in its default number of steps, and ``ensemble`` one model of those of all seeds.
    ``recgpt_ensemble`` is of the tuned models, whether tuning made them better or not, and in two steps.
    """
    systems = Systems(split)
    for models in trained:
        systems.add(RECGPT, models.tuned, TWO_STEPS)
        systems.add(RECGPT_1, models.tuned, ONE_STEP)
        systems.add(NO_PROMPTS, models.without_prompts, ONE_STEP)
        systems.add(PRETRAIN, models.pretrained, ONE_STEP)
        systems.add(VARIANT_1, models.pretrained, TWO_STEPS)
        systems.add(FINISHED, models.finished)
    if len(trained) > 1:
        systems.add(ENSEMBLE, ensemble([models.finished for models in trained]))
        systems.add(RECGPT_ENSEMBLE, ensemble([models.tuned for models in trained]), TWO_STEPS)
    systems.add(BCE, baseline, ONE_STEP)
    systems.add_popularity(baseline)
    return systems


def _sweep_prompts(runs: QualityRuns, split: Split, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Figure 4 of the paper: K prompts an item, two steps (one for K = 0, as nothing was learnt of a second)."""
    rows = []
    for num_prompts in NUM_PROMPTS:
        quotas = TWO_STEPS if num_prompts else ONE_STEP
        tuned = [runs.tuned(seed, num_prompts) for seed in seeds]
        rows.append(
            {
                "num_prompts": num_prompts,
                "num_epochs": [checkpoint.training.num_epochs for checkpoint in tuned],
                **_both_stages(tuned, split, quotas),
            }
        )
    return rows


def _sweep_quotas(checkpoints: Sequence[Checkpoint], split: Split) -> list[dict[str, Any]]:
    """Figures 5 and 6 of the paper: (m, n) from (10, 0) to (5, 5), one checkpoint a seed."""
    return [{"quotas": list(quotas), **_both_stages(checkpoints, split, quotas)} for quotas in QUOTAS]


def _over_seeds(seeds: Sequence[Int64Array], statistic: Statistic) -> Metrics:
    """A statistic of each metric over seeds, one array of ranks each."""
    metrics = [summarise(ranks) for ranks in seeds]
    return {name: float(statistic([one[name] for one in metrics])) for name in metrics[0]}


def _both_stages(checkpoints: Sequence[Checkpoint], split: Split, quotas: Sequence[int]) -> dict[str, Any]:
    return {stage: over_seeds(seeds) for stage, seeds in rank_stages(checkpoints, split, quotas).items()}


def rank_stages(
    checkpoints: Sequence[Checkpoint], split: Split, quotas: Sequence[int]
) -> dict[Stage, list[Int64Array]]:
    """Ranks of the test and of the validation targets, one array a checkpoint."""
    return {
        stage: [held_out_ranks(checkpoint.decoder, split, quotas, stage=stage) for checkpoint in checkpoints]
        for stage in STAGES
    }


def over_seeds(seeds: Sequence[Int64Array]) -> dict[str, Metrics]:
    """``mean`` of each metric and, of several seeds, ``deviation``; one array of ranks a seed."""
    found = {"mean": _over_seeds(seeds, np.mean)}
    return found | ({"deviation": _over_seeds(seeds, _deviation)} if len(seeds) > 1 else {})


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))
