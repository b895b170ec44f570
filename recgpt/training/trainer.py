"""The recipe: pre-train, generate prompts with the result, tune on them.

Each stage keeps the weights with the best validation NDCG@10: of the list that a model of that stage serves by default
for a history, out of the whole catalogue with seen items left out. After pre-training this is one step, after
prompt-tuning two. The history is a plain one; for a model tuned on real feedback it has its unclicked items.
So the finished model is the tuned one only if its two steps are better than the pre-trained model's one.
Running the same recipe on the same folder again goes on where it was interrupted.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only

from recgpt.config import StageConfig, TrainingConfig
from recgpt.data.interactions import Interactions
from recgpt.data.split import NOT_EVALUATED, Split, leave_one_out
from recgpt.errors import ConfigError, DataError
from recgpt.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recgpt.model.decoder import Decoder
from recgpt.model.prompts import check_catalogue, generate_prompts
from recgpt.recall.merge import default_quotas
from recgpt.training.batches import (
    TrainingExample,
    evaluation_examples,
    feedback_examples,
    plain_examples,
    prompted_examples,
)
from recgpt.training.fitting import fit_stage
from recgpt.training.module import NDCG, VALIDATED_K
from recgpt.training.run_folder import RunFolder
from recgpt.training.smoothing import Neighbours, neighbour_graph
from recgpt.training.stage_data import StageData
from recgpt.training_state import FEEDBACK, PRETRAINED, PROMPT_TUNED, TrainingState
from recgpt.types import Int64Array, PromptedHistory

_NUM_EXAMPLES = 128


def train(
    interactions: Interactions,
    config: TrainingConfig,
    out: Path,
    *,
    data_name: str,
    max_epochs: int | None = None,
    pretrained: Path | None = None,
    progress: bool = True,
) -> Path:
    """Trains a model, or goes on with a run that was interrupted, or finds it finished.

    Args:
        interactions: everything known; the last two items of each user are held out of training.
        config: the recipe.
        out: folder of the run; gets ``pretrained.pt`` and ``tuned.pt`` after the stages and ``ckpt.pt`` in the end.
        data_name: what to call the data.
        max_epochs: replaces the bound of stage 1 and lowers that of stage 2.
        pretrained: what stage 1 of another run wrote, on the same data with the same model; stage 1 is then left out.
        progress: show progress.

    Returns:
        Path of the finished checkpoint.

    Raises:
        ConfigError: ``out`` holds another run, or the recipe does not fit the data, such as prompts from feedback that
            the data does not have.
        DataError: the data has nobody to train on or to validate with.
        OutputError: ``out`` cannot be written.
    """
    config = _bounded(config, max_epochs)
    split = leave_one_out(interactions)
    _check_trainable(split)
    _check_prompts(config, split, interactions.num_items)
    folder = RunFolder(out)
    folder.claim(config, interactions)
    if folder.final.exists():
        _say(f"{folder.final} is finished already; a new run needs a folder of its own", progress)
        return folder.final
    pl.seed_everything(config.seed, verbose=False)
    recipe = _Recipe(interactions, split, config, folder, data_name=data_name, progress=progress)
    found = folder.pretrained if folder.pretrained.exists() else pretrained
    if found is not None:
        stage_1 = load_checkpoint(found)
        _check_pretrained(found, stage_1, config, interactions)
        _say(f"{found} is there already; going on with prompt-tuning", progress)
    else:
        stage_1 = recipe.pretrain()
        _save(folder.pretrained, stage_1)
    if config.tune.max_epochs == 0:
        finished = stage_1
    else:
        tuned = recipe.tune(stage_1)
        _save(folder.tuned, tuned)
        finished = max(stage_1, tuned, key=lambda checkpoint: checkpoint.training.validation[NDCG])
        if finished is stage_1:
            _say(f"tuning ({folder.tuned}) was not better on validation; keeping the pre-trained model", progress)
    _save(folder.final, finished)
    return folder.final


class _Recipe:
    """Both stages on one data set."""

    def __init__(
        self,
        interactions: Interactions,
        split: Split,
        config: TrainingConfig,
        folder: RunFolder,
        *,
        data_name: str,
        progress: bool,
    ) -> None:
        self._interactions = interactions
        self._split = split
        self._config = config
        self._folder = folder
        self._data_name = data_name
        self._progress = progress
        self._max_length = config.model.max_length

    def pretrain(self) -> Checkpoint:
        """Stage 1: next-item prediction on users' own sequences, from scratch."""
        config = self._config
        decoder = Decoder(config.model, num_items=self._interactions.num_items, num_users=self._interactions.num_users)
        result = fit_stage(
            decoder,
            config.pretrain,
            self._data(plain_examples(self._split.train, self._max_length), config.pretrain, num_steps=1),
            self._folder.stage("pretrain"),
            neighbours=self._neighbours(config.pretrain),
            quotas=default_quotas(VALIDATED_K, prompt_tuned=False),
            seed=config.seed,
            progress=self._progress,
        )
        state = TrainingState(
            stage=PRETRAINED,
            num_prompts=0,
            num_epochs=result.num_epochs,
            seed=config.seed,
            data=self._data_name,
            data_sha256=self._interactions.digest(),
            recipe=config.to_dict(),
            validation=result.validation,
        )
        return Checkpoint(
            decoder=decoder,
            item_ids=self._interactions.item_ids,
            user_ids=self._interactions.user_ids,
            popularity=self._interactions.popularity(self._split.train),
            training=state,
            examples=_examples(self._split),
        )

    def tune(self, pretrained: Checkpoint) -> Checkpoint:
        """Stage 2: the same on histories enriched with what the pre-trained model would have offered."""
        config = self._config
        decoder = copy.deepcopy(pretrained.decoder)
        # Without prompts there is nothing that a second step could have been learnt from.
        quotas = default_quotas(VALIDATED_K, prompt_tuned=config.num_prompts > 0)
        result = fit_stage(
            decoder,
            config.tune,
            self._data(self._tuning_examples(decoder), config.tune, num_steps=len(quotas), prompted=self._served()),
            self._folder.stage("tune"),
            neighbours=self._neighbours(config.tune),
            quotas=quotas,
            seed=config.seed,
            progress=self._progress,
        )
        state = dataclasses.replace(
            pretrained.training,
            stage=PROMPT_TUNED if config.num_prompts else PRETRAINED,
            num_prompts=config.num_prompts,
            prompts=config.prompts,
            num_epochs=pretrained.training.num_epochs + result.num_epochs,
            recipe=config.to_dict(),
            validation=result.validation,
        )
        return dataclasses.replace(pretrained, decoder=decoder, training=state)

    def _data(
        self,
        examples: list[TrainingExample],
        stage: StageConfig,
        *,
        num_steps: int,
        prompted: Sequence[PromptedHistory] | None = None,
    ) -> StageData:
        # Generated tokens need positions too.
        max_length = self._max_length - (num_steps - 1)
        histories = self._split.history("validation")
        validation = evaluation_examples(histories, self._split.validation, max_length, prompted=prompted)
        return StageData(examples, validation, batch_size=stage.batch_size, seed=self._config.seed)

    def _neighbours(self, stage: StageConfig) -> Neighbours | None:
        return neighbour_graph(self._split.train, self._interactions.num_items) if stage.smoothing else None

    def _served(self) -> Sequence[PromptedHistory] | None:
        """Histories with what a client knows of them beyond the behaviours; None if that is nothing."""
        if self._config.prompts != FEEDBACK:
            return None
        return self._split.history_with_unclicked("validation", self._config.num_prompts)

    def _tuning_examples(self, decoder: Decoder) -> list[TrainingExample]:
        num_prompts = self._config.num_prompts
        if self._config.prompts == FEEDBACK:
            return feedback_examples(
                self._split.train,
                self._split.unclicked or (),
                num_prompts=num_prompts,
                max_length=self._max_length,
            )
        _say(f"generating prompts, {num_prompts} an item, for {len(self._split.train):,} users", self._progress)
        prompted = generate_prompts(
            decoder.to(_device()),
            np.arange(1, self._interactions.num_users + 1),
            [items[:-1] for items in self._split.train],
            num_prompts=num_prompts,
        )
        decoder.cpu()
        return prompted_examples(self._split.train, prompted)


def _bounded(config: TrainingConfig, max_epochs: int | None) -> TrainingConfig:
    if max_epochs is None:
        return config
    pretrain = dataclasses.replace(config.pretrain, max_epochs=max_epochs)
    tune = dataclasses.replace(config.tune, max_epochs=min(max_epochs, config.tune.max_epochs))
    return dataclasses.replace(config, pretrain=pretrain, tune=tune)


def _check_trainable(split: Split) -> None:
    if not any(len(items) > 1 for items in split.train):
        raise DataError("no user has enough items to train on; expected at least 4 (2 are held out), or 2 of 2")
    if not (split.validation != NOT_EVALUATED).any():
        raise DataError("no user has the 3 items that validation needs; expected longer histories")


def _check_pretrained(path: Path, found: Checkpoint, config: TrainingConfig, interactions: Interactions) -> None:
    if found.training.stage != PRETRAINED:
        raise ConfigError(f"{path} was prompt-tuned already; expected the pretrained.pt of a run")
    if found.decoder.config != config.model:
        raise ConfigError(f"{path} has {found.decoder.config}; expected the recipe's {config.model}")
    if found.training.data_sha256 != interactions.digest():
        raise DataError(f"{path} was trained on {found.training.data}, on other interactions than those given")


def _check_prompts(config: TrainingConfig, split: Split, num_items: int) -> None:
    if config.prompts != FEEDBACK:
        check_catalogue(num_items, config.model.max_length, split.train, config.num_prompts)
    elif split.unclicked is None:
        raise ConfigError(
            "prompts = 'feedback', but the data does not tell what was shown and not clicked; expected a raw log with "
            "--clicked-column, or prompts = 'generated'"
        )


def _examples(split: Split) -> tuple[tuple[int, Int64Array], ...]:
    """Known histories of users spread evenly over the data."""
    histories = split.history("test")
    users = np.unique(np.linspace(0, len(histories) - 1, min(_NUM_EXAMPLES, len(histories))).astype(np.int64))
    return tuple((user + 1, histories[user]) for user in users.tolist())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _save(path: Path, checkpoint: Checkpoint) -> None:
    """One process writes, the others wait until the file is there."""
    rank_zero_only(save_checkpoint)(path, checkpoint)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


@rank_zero_only
def _say(message: str, progress: bool) -> None:
    if progress:
        print(message, flush=True)
