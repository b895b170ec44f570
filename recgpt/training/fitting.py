"""Runs one training stage with Lightning: early stopping, checkpoints, resuming. Knows a stage, not the recipe."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar

from recgpt.config import StageConfig
from recgpt.errors import OutputError
from recgpt.model.decoder import Decoder
from recgpt.training.module import NDCG, TRAIN_LOSS, VALIDATION, StageModule
from recgpt.training.smoothing import Neighbours, smoothed
from recgpt.training.stage_data import StageData

LOG = "epochs.log"
"""In a stage's folder: a line for each epoch, whatever was printed."""

# What Lightning says at INFO (devices it looked for, advertisements) is not about this run.
_LIGHTNING_NEWS = "lightning.pytorch.utilities.rank_zero"

# Third-party warnings that do not apply here, each with the reason.
_WARNINGS = (
    r"The '\w+_dataloader' does not have many workers",  # examples lie in memory; workers would only copy them
    r"Checkpoint directory .* exists and is not empty",  # it is where the run goes on from
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own use of torch; nothing here can change it
)


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The best weights' record; the weights themselves are in the decoder.

    Attributes:
        num_epochs: after how many epochs of this stage the best weights were reached.
        validation: metric name -> value of the best weights.
    """

    num_epochs: int
    validation: Mapping[str, float]


def fit_stage(
    decoder: Decoder,
    stage: StageConfig,
    data: StageData,
    folder: Path,
    *,
    neighbours: Neighbours | None,
    quotas: tuple[int, ...],
    seed: int,
    progress: bool,
) -> FitResult:
    """Trains until validation NDCG@10 stops rising and leaves the best weights in the decoder.

    Goes on from ``folder/last.ckpt`` if there is one, as if the run had never been interrupted.

    Args:
        decoder: trained in place.
        stage: how.
        data: on what.
        folder: where this stage's checkpoints are kept.
        neighbours: the graph of items for stages that smooth item vectors.
        quotas: items of each step of the list that is validated.
        seed: of every random choice.
        progress: show a progress bar, or a line an epoch where the output is no terminal.

    Raises:
        OutputError: a checkpoint cannot be written.
    """
    trainer = _trainer(stage, folder, progress=progress)
    last = folder / "last.ckpt"
    if last.exists() and progress:
        print(f"going on with {last}", flush=True)
    with _quiet(), _writing(folder), smoothed(decoder, neighbours, stage.smoothing):
        module = StageModule(decoder.train(), stage, quotas=quotas, seed=seed)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=last if last.exists() else None, weights_only=True)
        except SystemExit as error:
            # Lightning's answer to Ctrl-C.
            if not trainer.interrupted:
                raise
            print(f"stopped; the same command goes on with {last}" if last.exists() else "stopped", flush=True)
            raise KeyboardInterrupt from error
        best = torch.load(folder / "best.ckpt", map_location="cpu", weights_only=True)
        decoder.cpu().eval()
        module.load_state_dict(best["state_dict"])
    return FitResult(num_epochs=best["epoch"] + 1, validation=best[VALIDATION])


class EpochLines(Callback):
    """Adds one line an epoch to a log.

    Args:
        log: the file; what it holds stays, so that a run that went on has one log.
        prints: whether to print the line too.
    """

    def __init__(self, log: Path, *, prints: bool) -> None:
        self._log = log
        self._prints = prints
        self._started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the epoch's loss and validation metrics."""
        if not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        validation = ", ".join(f"{name} {float(metrics[name]):.5f}" for name in StageModule.METRICS)
        line = (
            f"{self._log.parent.name}: epoch {trainer.current_epoch + 1} of at most {trainer.max_epochs}: "
            f"loss {float(metrics[TRAIN_LOSS]):.4f}, {validation}, {time.perf_counter() - self._started:.1f} s"
        )
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("a") as log:
            log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")
        if self._prints:
            print(line, flush=True)


class _EarlyStopping(EarlyStopping):
    """Lightning's; a run that was killed after its last epoch does not train another one."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class _Checkpoints(ModelCheckpoint):
    """Lightning's; a run may go on after its folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def moved(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        here = {
            "dirpath": self.dirpath,
            "best_k_models": {moved(path): score for path, score in state_dict["best_k_models"].items()},
            **{name: moved(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")},
        }
        super().load_state_dict({**state_dict, **here})


def _trainer(stage: StageConfig, folder: Path, *, progress: bool) -> pl.Trainer:
    bar = progress and sys.stdout.isatty()
    callbacks: list[Callback] = [_EarlyStopping(NDCG, mode="max", patience=stage.patience)]
    if bar:
        callbacks.append(TQDMProgressBar(leave=True))
    callbacks.append(EpochLines(folder / LOG, prints=progress and not bar))
    # In this order: "last" carries the state of "best".
    callbacks += [
        _Checkpoints(folder, "best", monitor=NDCG, mode="max", save_weights_only=True, enable_version_counter=False),
        _Checkpoints(folder, "last", enable_version_counter=False),
    ]
    with _quiet():
        return pl.Trainer(
            max_epochs=stage.max_epochs,
            precision="bf16-mixed" if stage.precision == "bfloat16" else "32-true",
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=bar,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            # The loaders share the examples out themselves.
            use_distributed_sampler=False,
            default_root_dir=folder,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    news = logging.getLogger(_LIGHTNING_NEWS)
    level = news.level
    news.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        news.setLevel(level)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write checkpoints to {folder}: {reason}. Free some space; the same command goes on"
        ) from error
