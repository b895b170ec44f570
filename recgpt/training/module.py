"""One training stage as a Lightning module: loss, optimizer, validation. Knows batches, not where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from recgpt.config import StageConfig
from recgpt.metrics import hit_rate_at_k, ndcg_at_k
from recgpt.model.decoder import SHARED_USER_ROW, Decoder
from recgpt.training.batches import NO_TARGET, EvaluationBatch, TrainingBatch
from recgpt.training.losses import (
    full_cross_entropy,
    sample_items,
    sample_negatives,
    sampled_bce,
    sampled_cross_entropy,
    target_shares,
)
from recgpt.training.ranking import recalled_ranks

VALIDATED_K = 10
NDCG = f"ndcg@{VALIDATED_K}"
HIT_RATE = f"hr@{VALIDATED_K}"
TRAIN_LOSS = "train_loss"
VALIDATION = "validation"


class StageModule(pl.LightningModule):
    """Trains a decoder for one stage and validates it as it would be served.

    Args:
        decoder: trained in place.
        stage: loss, optimizer and user dropout.
        quotas: items of each step of the list that is validated.
        seed: with the epoch, it decides every random choice of that epoch.
    """

    METRICS = (NDCG, HIT_RATE)

    def __init__(self, decoder: Decoder, stage: StageConfig, *, quotas: tuple[int, ...], seed: int) -> None:
        super().__init__()
        # Where all users count as the shared one, their table would cost a dense gradient of zeros in each step.
        decoder.user_embedding.requires_grad_(stage.user_dropout < 1.0)
        self.decoder = decoder
        self.stage = stage
        self.quotas = quotas
        self.seed = seed

    def on_train_epoch_start(self) -> None:
        """Seeds each epoch by its number, so that a resumed run draws what an uninterrupted one would."""
        entropy = np.random.SeedSequence([self.seed, self.current_epoch, self.global_rank])
        torch.manual_seed(int(entropy.generate_state(1)[0]))

    def training_step(self, parts: Sequence[TrainingBatch], batch_index: int) -> Tensor:
        """Mean loss over the positions that have a target."""
        interests, targets = [], []
        # Smoothed item vectors are computed once a step.
        with parametrize.cached():
            for part in parts:
                user_rows = drop_users(part.user_rows, self.stage.user_dropout)
                # Only rows with a target are scored against the catalogue.
                real = part.targets[:, :, 0] != NO_TARGET
                interests.append(self.decoder(user_rows, part.item_rows, part.segments)[real])
                targets.append(part.targets[real])
            loss = self._loss(torch.cat(interests), torch.cat(targets))
        num_targets = sum(map(len, targets))
        self.log(TRAIN_LOSS, loss, on_step=False, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=num_targets)
        return loss

    def validation_step(self, batch: EvaluationBatch, batch_index: int) -> None:
        """Looks for the targets in the whole catalogue, seen items left out, through the steps that serving takes."""
        with parametrize.cached(), torch.autocast(self.device.type, enabled=False):
            ranks = recalled_ranks(self.decoder, batch, self.quotas).cpu().numpy()
        metrics = {NDCG: ndcg_at_k(ranks, VALIDATED_K), HIT_RATE: hit_rate_at_k(ranks, VALIDATED_K)}
        self.log_dict(metrics, on_epoch=True, prog_bar=True, sync_dist=True, batch_size=len(ranks))

    def configure_optimizers(self) -> Any:
        """Adam, with the learning rate constant (as in the paper) or falling with every step."""
        trained = [parameter for parameter in self.decoder.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=self.stage.learning_rate, weight_decay=self.stage.weight_decay)
        if self.stage.schedule == "constant":
            return optimizer
        num_steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the validation metrics of the weights that are saved."""
        metrics = self.trainer.callback_metrics
        checkpoint[VALIDATION] = {name: float(metrics[name]) for name in self.METRICS}

    def _loss(self, interests: Tensor, targets: Tensor) -> Tensor:
        """Of interests (N, D) and targets (N, F)."""
        if self.decoder.is_cosine:
            interests = interests / self.decoder.config.temperature
        if self.stage.loss == "cross_entropy":
            # Targets without a share would only take time.
            targets = targets if self.stage.future_share else targets[:, :1]
            shares = target_shares(targets, self.stage.future_share)
            return full_cross_entropy(interests, targets, shares, self.decoder.item_matrix)
        targets = targets[:, 0]
        if self.stage.loss == "sampled_cross_entropy":
            drawn = sample_items(self.stage.num_negatives, self.decoder.num_items, targets.device)
            return sampled_cross_entropy(interests, targets, self.decoder.item_matrix, drawn)
        negatives = sample_negatives(targets, self.stage.num_negatives, self.decoder.num_items)
        return sampled_bce(interests, targets, self.decoder.item_matrix, negatives)


def drop_users(user_rows: Tensor, probability: float) -> Tensor:
    """Replaces each user, with this probability, by the shared one.

    So the other weights learn to do without knowing the user, and users' own vectors, of which each sees only a few
    targets, cannot memorise them.
    """
    dropped = torch.rand(user_rows.shape, device=user_rows.device) < probability
    return torch.where(dropped, SHARED_USER_ROW, user_rows)
