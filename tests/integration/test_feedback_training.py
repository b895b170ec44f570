"""Tuning on real unclicked items, on data where what was passed over tells what is clicked next."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_training import CONFIG, recall_slowly

from recgpt.config import StageConfig
from recgpt.data.feedback import Unclicked
from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.data.split import leave_one_out
from recgpt.eager import eager_recaller
from recgpt.errors import ConfigError, DataError
from recgpt.evaluation import evaluate
from recgpt.model.checkpoint import load_checkpoint
from recgpt.training.trainer import train

NUM_USERS, NUM_ITEMS, LENGTH = 300, 60, 8
STAGE = StageConfig(max_epochs=25, patience=25, batch_size=32, learning_rate=1e-2)
FEEDBACK = dataclasses.replace(
    CONFIG, pretrain=dataclasses.replace(STAGE, max_epochs=1), tune=STAGE, prompts="feedback", num_prompts=2
)


@pytest.fixture(scope="module")
def interactions():
    """Clicks are drawn at random; before most of them the item with the row before it was shown and passed over."""
    rng = np.random.default_rng(0)
    sequences, unclicked = [], []
    for _ in range(NUM_USERS):
        clicks = rng.choice(NUM_ITEMS, LENGTH, replace=False)
        places = np.flatnonzero(rng.random(LENGTH) < 0.9)
        sequences.append(clicks + 1)
        unclicked.append(Unclicked(item_rows=(clicks[places] - 1) % NUM_ITEMS + 1, num_before=places))
    return Interactions(
        user_ids=IdMap(range(NUM_USERS)),
        item_ids=IdMap([f"i{number}" for number in range(NUM_ITEMS)]),
        sequences=tuple(sequences),
        unclicked=tuple(unclicked),
    )


@pytest.fixture(scope="module")
def checkpoint(interactions, tmp_path_factory):
    out = tmp_path_factory.mktemp("feedback")
    return load_checkpoint(train(interactions, FEEDBACK, out, data_name="made up", progress=False))


def test_the_checkpoint_says_what_it_was_tuned_on(checkpoint):
    assert checkpoint.training.is_prompt_tuned
    assert (checkpoint.training.prompts, checkpoint.training.max_unclicked) == ("feedback", 2)


def test_what_was_passed_over_tells_what_is_clicked_next(checkpoint, interactions):
    split, recaller = leave_one_out(interactions), eager_recaller(checkpoint)
    # At random ten of the 53 unseen items are right in one case of five.
    assert evaluate(recaller, split)["hr@10"] < 0.4
    assert evaluate(recaller, split, max_unclicked=2)["hr@10"] > 0.7


def test_validation_measures_histories_with_their_unclicked_items(checkpoint, interactions):
    split = leave_one_out(interactions)
    ranks = []
    for user, (items, shown) in enumerate(zip(interactions.sequences, interactions.unclicked, strict=True), 1):
        passed_over = dict(zip(shown.num_before.tolist(), shown.item_rows.tolist(), strict=True))
        # All clicks but the last two, and what was shown before each of them and before the first of those two.
        pairs = []
        for place in range(LENGTH - 1):
            pairs += [(passed_over[place], 1)] if place in passed_over else []
            pairs += [(int(items[place]), 0)] if place < LENGTH - 2 else []
        rows, segments = (np.array(column) for column in zip(*pairs, strict=True))
        recalled = recall_slowly(checkpoint.decoder, user, rows, (9, 1), segments)
        target = int(split.validation[user - 1])
        ranks.append(recalled.index(target) + 1 if target in recalled else None)
    expected = {
        "hr@10": np.mean([rank is not None for rank in ranks]),
        "ndcg@10": np.mean([1 / np.log2(rank + 1) if rank else 0.0 for rank in ranks]),
    }
    # A mean over 300 users that was added up in float32.
    assert dict(checkpoint.training.validation) == pytest.approx(expected, abs=1e-5)


def test_feedback_is_not_asked_of_data_that_has_none(interactions, tmp_path):
    plain = dataclasses.replace(interactions, unclicked=None)
    with pytest.raises(ConfigError, match=r"--clicked-column, or prompts = 'generated'"):
        train(plain, FEEDBACK, tmp_path / "run", data_name="made up", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_model_tuned_on_feedback_is_not_evaluated_without(checkpoint, interactions):
    plain = leave_one_out(dataclasses.replace(interactions, unclicked=None))
    with pytest.raises(DataError, match="--clicked-column"):
        evaluate(eager_recaller(checkpoint), plain, max_unclicked=2)


def test_data_with_feedback_trains_with_generated_prompts_all_the_same(interactions, tmp_path):
    config = dataclasses.replace(FEEDBACK, prompts="generated", tune=dataclasses.replace(STAGE, max_epochs=1))
    path = train(interactions, config, tmp_path, data_name="made up", max_epochs=1, progress=False)
    assert load_checkpoint(path).training.max_unclicked == 0
