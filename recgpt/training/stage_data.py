"""The loaders of one training stage: seeded shuffling, an even share for each process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, DistributedSampler

from recgpt.training.batches import (
    EvaluationExample,
    Examples,
    TrainingExample,
    collate_evaluation,
    collate_training,
)

_EVALUATION_BATCH_SIZE = 512


class StageData(pl.LightningDataModule):
    """Training and validation examples of a stage.

    Args:
        training: shuffled anew each epoch.
        validation: in this order.
        batch_size: training examples a step.
        seed: with the epoch, it decides the order.
    """

    def __init__(
        self,
        training: Sequence[TrainingExample],
        validation: Sequence[EvaluationExample],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self._training = training
        self._validation = validation
        self._batch_size = batch_size
        self._seed = seed

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of this process's share; Lightning tells the sampler the epoch, so resuming keeps the order."""
        rank, world_size = self._share()
        examples = Examples(self._training)
        sampler: DistributedSampler[Any] = DistributedSampler(examples, world_size, rank, seed=self._seed)
        return DataLoader(
            examples,
            batch_size=self._batch_size,
            sampler=sampler,
            collate_fn=collate_training,
            # A loader draws a number when it starts; from the global generator this would shift an epoch's dropout.
            generator=torch.Generator(),
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of this process's share, each example exactly once among all processes."""
        rank, world_size = self._share()
        examples = Examples(self._validation[rank::world_size])
        return DataLoader(examples, batch_size=_EVALUATION_BATCH_SIZE, collate_fn=collate_evaluation)

    def _share(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size
