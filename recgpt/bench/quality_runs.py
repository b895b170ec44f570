"""The models behind a quality report: a run folder for each variant and seed, trained once, resumed when cut off."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from recgpt.config import StageConfig, TrainingConfig
from recgpt.data.interactions import Interactions
from recgpt.model.checkpoint import Checkpoint, load_checkpoint
from recgpt.training.run_folder import RunFolder
from recgpt.training.trainer import train


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The models of one seed.

    Attributes:
        pretrained: after stage 1.
        tuned: after stage 2 with the recipe's number of prompts, whether it made anything better or not.
        without_prompts: likewise after a stage 2 without prompts.
        finished: what a user gets of the recipe: the tuned model if it is better on validation, else the pre-trained.
    """

    pretrained: Checkpoint
    tuned: Checkpoint
    without_prompts: Checkpoint
    finished: Checkpoint


class QualityRuns:
    """Trains what is asked for, or finds it trained.

    FOLDER/seed_S/pretrain       stage 1
    FOLDER/seed_S/prompts_K      stage 2 from there with K prompts an item, 0 for none
    FOLDER/seed_S/sasrec_bce     the baseline

    Args:
        interactions: the data.
        recipe: of RecGPT; the seed and the number of prompts are set for each run.
        folder: FOLDER.
        data_name: what to call the data.
        max_epochs: as in ``train``.
    """

    def __init__(
        self,
        interactions: Interactions,
        recipe: TrainingConfig,
        folder: Path,
        *,
        data_name: str,
        max_epochs: int | None = None,
    ) -> None:
        self._interactions = interactions
        self.recipe = recipe
        self._folder = folder
        self._data_name = data_name
        self._max_epochs = max_epochs

    def trained(self, seed: int) -> Trained:
        """RecGPT and its parts by the recipe."""
        finished = self._both_stages(seed, self.recipe.num_prompts)
        return Trained(
            pretrained=self.pretrained(seed),
            tuned=load_checkpoint(RunFolder(finished.parent).tuned),
            without_prompts=self.tuned(seed, 0),
            finished=load_checkpoint(finished),
        )

    def pretrained(self, seed: int) -> Checkpoint:
        """After stage 1."""
        return load_checkpoint(self._pretrained(seed))

    def finished(self, seed: int) -> Checkpoint:
        """What a user gets of the recipe."""
        return load_checkpoint(self._both_stages(seed, self.recipe.num_prompts))

    def tuned(self, seed: int, num_prompts: int) -> Checkpoint:
        """After stage 2 with K prompts an item, whether it made anything better or not."""
        return load_checkpoint(RunFolder(self._both_stages(seed, num_prompts).parent).tuned)

    def sasrec_bce(self, seed: int, baseline: TrainingConfig) -> Checkpoint:
        """The baseline, by a recipe of its own."""
        return load_checkpoint(self._train(dataclasses.replace(baseline, seed=seed), "sasrec_bce"))

    def _both_stages(self, seed: int, num_prompts: int) -> Path:
        config = dataclasses.replace(self.recipe, seed=seed, num_prompts=num_prompts)
        return self._train(config, f"prompts_{num_prompts}", pretrained=self._pretrained(seed))

    def _pretrained(self, seed: int) -> Path:
        config = dataclasses.replace(self.recipe, seed=seed, num_prompts=0, tune=StageConfig(max_epochs=0))
        return self._train(config, "pretrain")

    def _train(self, config: TrainingConfig, name: str, pretrained: Path | None = None) -> Path:
        out = self._folder / f"seed_{config.seed}" / name
        print(out, flush=True)
        return train(
            self._interactions,
            config,
            out,
            data_name=self._data_name,
            max_epochs=self._max_epochs,
            pretrained=pretrained,
        )
