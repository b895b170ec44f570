from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from recgpt.config import ModelConfig, StageConfig, TrainingConfig, load_training_config
from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.data.split import leave_one_out
from recgpt.data.synthetic import generate
from recgpt.errors import ConfigError, DataError, OutputError
from recgpt.model.checkpoint import load_checkpoint
from recgpt.training.fitting import LOG
from recgpt.training.module import StageModule
from recgpt.training.trainer import train

STAGE = StageConfig(max_epochs=4, patience=4, batch_size=64, learning_rate=3e-3, user_dropout=0.5)
PRETRAIN = dataclasses.replace(STAGE, max_epochs=3, smoothing=1.0)
CONFIG = TrainingConfig(
    model=ModelConfig(max_length=12, hidden_size=16, ffn_size=32, dropout=0.1), pretrain=PRETRAIN, tune=STAGE, seed=3
)


@pytest.fixture(scope="module")
def interactions():
    return generate(num_users=400, num_items=80, num_interests=5, seed=0)


@pytest.fixture(scope="module")
def uninterrupted(interactions, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    train(interactions, CONFIG, out, data_name="made up", progress=False)
    return out


def popularity_hit_rate(interactions):
    """HR@10 of the most popular unseen items on the validation targets."""
    split = leave_one_out(interactions)
    order = np.argsort(-interactions.popularity(split.train)[1:], kind="stable") + 1
    hits = [
        target in [row for row in order if row not in history][:10]
        for history, target in zip(split.history("validation"), split.validation, strict=True)
    ]
    return np.mean(hits)


def recall_slowly(decoder, user, history, quotas, segments=None):
    """The served list of a history: each step recomputed from scratch, each list sorted."""
    segments = [0] * len(history) if segments is None else segments.tolist()
    seen = {row for row, segment in zip(history.tolist(), segments, strict=True) if segment == 0}
    window = slice(-(decoder.config.max_length - (len(quotas) - 1)), None)
    rows, segments, recalled, generated = history[window].tolist(), segments[window], [], []
    for quota in quotas:
        with torch.no_grad():
            interest = decoder(torch.tensor([user]), torch.tensor([rows]), torch.tensor([segments]))[0, -1]
            scores = (decoder.item_matrix @ interest).numpy()
        unseen = sorted(set(range(1, len(scores))) - seen, key=lambda row: -scores[row])
        recalled += [row for row in unseen if row not in recalled][:quota]
        generated.append(next(row for row in unseen if row not in generated))
        rows, segments = [*rows, generated[-1]], [*segments, 1]
    return recalled


def validate_slowly(checkpoint, interactions, quotas):
    """HR@10 and NDCG@10 of the served lists on the validation targets."""
    split = leave_one_out(interactions)
    ranks = []
    for user, (history, target) in enumerate(zip(split.history("validation"), split.validation, strict=True), 1):
        recalled = recall_slowly(checkpoint.decoder, user, history, quotas)
        ranks.append(recalled.index(target) + 1 if target in recalled else None)
    return {
        "hr@10": np.mean([rank is not None for rank in ranks]),
        "ndcg@10": np.mean([1 / np.log2(rank + 1) if rank else 0.0 for rank in ranks]),
    }


def test_products_in_bfloat16_leave_float32_weights_validated_as_they_are_served(interactions, uninterrupted, tmp_path):
    stage = dataclasses.replace(PRETRAIN, precision="bfloat16")
    config = dataclasses.replace(CONFIG, pretrain=stage, tune=dataclasses.replace(STAGE, max_epochs=0))
    found = load_checkpoint(train(interactions, config, tmp_path, data_name="made up", progress=False))
    assert {tensor.dtype for tensor in found.decoder.state_dict().values()} == {torch.float32}
    assert found.training.validation == pytest.approx(validate_slowly(found, interactions, (10,)))
    exactly = load_checkpoint(uninterrupted / "pretrained.pt").decoder.state_dict()
    for name, tensor in found.decoder.state_dict().items():
        assert torch.allclose(tensor, exactly[name], atol=0.05), name
    assert not torch.equal(found.decoder.item_embedding.weight, exactly["item_embedding.weight"])


def test_both_stages_leave_a_checkpoint(uninterrupted, interactions):
    pretrained = load_checkpoint(uninterrupted / "pretrained.pt")
    tuned = load_checkpoint(uninterrupted / "ckpt.pt")
    assert (pretrained.training.stage, pretrained.training.num_prompts) == ("pretrained", 0)
    assert (tuned.training.stage, tuned.training.num_prompts) == ("prompt_tuned", 1)
    assert tuned.training.validation["ndcg@10"] > pretrained.training.validation["ndcg@10"]
    assert (tuned.training.data, tuned.training.seed) == ("made up", 3)
    assert tuned.item_ids == interactions.item_ids and tuned.user_ids == interactions.user_ids
    counts = np.bincount(np.concatenate(leave_one_out(interactions).train), minlength=interactions.num_items + 1)
    assert tuned.popularity.tolist() == counts.tolist()
    for user_row, rows in tuned.examples:
        assert rows.tolist() == interactions.sequences[user_row - 1][:-1].tolist()


@pytest.mark.parametrize(("name", "quotas"), [("pretrained.pt", (10,)), ("ckpt.pt", (9, 1))])
def test_validation_measures_what_is_served(uninterrupted, interactions, name, quotas):
    checkpoint = load_checkpoint(uninterrupted / name)
    expected = validate_slowly(checkpoint, interactions, quotas)
    # A mean over some 400 users that was added up in float32.
    assert dict(checkpoint.training.validation) == pytest.approx(expected, abs=1e-5)


def test_learns_more_than_popularity(uninterrupted, interactions):
    hit_rate = load_checkpoint(uninterrupted / "ckpt.pt").training.validation["hr@10"]
    assert hit_rate > 1.5 * popularity_hit_rate(interactions)


def test_a_sample_of_the_catalogue_teaches_as_well(interactions, tmp_path):
    stage = dataclasses.replace(STAGE, loss="sampled_cross_entropy", num_negatives=30)
    config = dataclasses.replace(CONFIG, pretrain=stage, tune=dataclasses.replace(STAGE, max_epochs=0))
    found = load_checkpoint(train(interactions, config, tmp_path, data_name="made up", progress=False))
    assert found.training.validation["hr@10"] > 1.5 * popularity_hit_rate(interactions)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("stage", ["pretrain", "tune"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(stage, uninterrupted, interactions, tmp_path, monkeypatch):
    step = StageModule.training_step

    def killed_in_the_third_epoch(self, parts, batch_index):
        folder = self.trainer.default_root_dir
        if str(folder).endswith(stage) and (self.current_epoch, batch_index) == (2, 1):
            raise Killed
        return step(self, parts, batch_index)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(StageModule, "training_step", killed_in_the_third_epoch)
        train(interactions, CONFIG, tmp_path / "run", data_name="made up", progress=False)
    assert not (tmp_path / "run" / "ckpt.pt").exists()
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    torch.manual_seed(99)  # a new process starts from another random state
    resumed_epochs = []
    monkeypatch.setattr(
        StageModule,
        "training_step",
        lambda self, parts, index: (resumed_epochs.append(self.current_epoch), step(self, parts, index))[1],
    )
    train(interactions, CONFIG, moved, data_name="made up", progress=False)
    assert resumed_epochs[0] == 2
    logged = re.findall(r"epoch (\d+) of at most", (moved / stage / LOG).read_text())
    assert logged == [str(number) for number in range(1, len(logged) + 1)]
    assert len(logged) >= 3
    expected, found = load_checkpoint(uninterrupted / "ckpt.pt"), load_checkpoint(moved / "ckpt.pt")
    assert found.training == expected.training
    for name, weight in expected.decoder.state_dict().items():
        torch.testing.assert_close(found.decoder.state_dict()[name], weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("patience", [1, 4])
def test_a_run_killed_before_its_model_was_written_trains_no_more(patience, interactions, tmp_path, monkeypatch):
    # A learning rate that is too high, so that with a patience of 1 the stages stop early.
    stage = dataclasses.replace(STAGE, max_epochs=6, patience=patience, learning_rate=3e-2)
    config = dataclasses.replace(CONFIG, pretrain=stage, tune=dataclasses.replace(stage, max_epochs=0))
    expected = load_checkpoint(train(interactions, config, tmp_path / "run", data_name="made up", progress=False))
    for name in ("pretrained.pt", "ckpt.pt"):
        (tmp_path / "run" / name).unlink()
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.setattr(StageModule, "training_step", lambda *_: pytest.fail("trained on"))
    found = load_checkpoint(train(interactions, config, moved, data_name="made up", progress=False))
    assert found.training == expected.training
    assert torch.equal(found.decoder.item_matrix, expected.decoder.item_matrix)


def test_the_same_seed_gives_the_same_model_and_another_one_another(uninterrupted, interactions, tmp_path):
    again = train(interactions, CONFIG, tmp_path / "again", data_name="made up", progress=False)
    other = train(
        interactions, dataclasses.replace(CONFIG, seed=4), tmp_path / "other", data_name="made up", progress=False
    )
    matrices = [load_checkpoint(path).decoder.item_matrix for path in (uninterrupted / "ckpt.pt", again, other)]
    torch.testing.assert_close(matrices[0], matrices[1], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(matrices[0], matrices[2], atol=1e-2)


def test_a_finished_run_says_so_and_does_nothing(uninterrupted, interactions, capsys):
    before = (uninterrupted / "ckpt.pt").stat().st_mtime_ns
    assert train(interactions, CONFIG, uninterrupted, data_name="moved") == uninterrupted / "ckpt.pt"
    assert "finished already" in capsys.readouterr().out
    assert (uninterrupted / "ckpt.pt").stat().st_mtime_ns == before


def test_other_settings_on_the_same_folder_are_refused(uninterrupted, interactions):
    other = dataclasses.replace(CONFIG, num_prompts=2, tune=dataclasses.replace(STAGE, batch_size=32))
    with pytest.raises(ConfigError, match=r"num_prompts was 1, is 2.*tune\.batch_size was 64, is 32.*--out") as error:
        train(interactions, other, uninterrupted, data_name="made up")
    assert "pretrain.batch_size" not in str(error.value)


def test_other_data_on_the_same_folder_is_refused(uninterrupted, interactions):
    changed = list(interactions.sequences)
    changed[7] = changed[7][::-1].copy()
    other = dataclasses.replace(interactions, sequences=tuple(changed))
    with pytest.raises(ConfigError, match=r"data\.sha256"):
        train(other, CONFIG, uninterrupted, data_name="made up")


def test_progress_in_a_log_is_a_line_an_epoch(interactions, tmp_path, capsys):
    train(interactions, CONFIG, tmp_path, data_name="made up", max_epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": loss")[0] for line in lines if ": loss" in line] == [
        f"{stage}: epoch {epoch} of at most 2" for stage in ("pretrain", "tune") for epoch in (1, 2)
    ]
    assert json.loads((tmp_path / "config.json").read_text())["config"]["tune"]["max_epochs"] == 2


def test_tuning_that_helps_no_epoch_keeps_the_pretrained_model(interactions, tmp_path):
    destructive = dataclasses.replace(STAGE, learning_rate=5.0, patience=1)
    path = train(
        interactions, dataclasses.replace(CONFIG, tune=destructive), tmp_path, data_name="made up", progress=False
    )
    assert load_checkpoint(path).training == load_checkpoint(tmp_path / "pretrained.pt").training


def test_the_second_stage_can_be_left_out(interactions, tmp_path):
    config = dataclasses.replace(CONFIG, tune=dataclasses.replace(STAGE, max_epochs=0))
    path = train(interactions, config, tmp_path, data_name="made up", max_epochs=1, progress=False)
    assert load_checkpoint(path).training.stage == "pretrained"
    assert not (tmp_path / "tune").exists()


def test_tuning_without_prompts_leaves_a_model_for_one_step(interactions, tmp_path):
    config = dataclasses.replace(CONFIG, num_prompts=0)
    path = train(interactions, config, tmp_path, data_name="made up", max_epochs=1, progress=False)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.training.stage, checkpoint.training.num_epochs) == ("pretrained", 2)
    expected = validate_slowly(checkpoint, interactions, (10,))
    assert dict(checkpoint.training.validation) == pytest.approx(expected, abs=1e-5)


def test_the_papers_preset_runs(interactions, tmp_path):
    config = load_training_config("paper")
    checkpoint = load_checkpoint(
        train(interactions, config, tmp_path, data_name="made up", max_epochs=2, progress=False)
    )
    assert checkpoint.decoder.config == config.model
    assert not checkpoint.decoder.config.tied


def sequences(*items):
    rows = tuple(np.array(row) for row in items)
    return Interactions(user_ids=IdMap(range(len(rows))), item_ids=IdMap(range(9)), sequences=rows)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sequences([1, 2], [3, 4]), "3 items that validation needs"),
        (sequences([1], [2, 3, 4]), "enough items to train on"),
    ],
)
def test_data_without_anything_to_learn_or_to_validate_is_refused(data, message, tmp_path):
    with pytest.raises(DataError, match=message):
        train(data, CONFIG, tmp_path, data_name="tiny", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_output_error(interactions, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        train(interactions, CONFIG, tmp_path / "file" / "run", data_name="made up", progress=False)


def test_a_catalogue_too_small_for_the_prompts_is_said_before_anything_is_trained(tmp_path):
    rows = np.arange(1, 9)
    few_items = Interactions(user_ids=IdMap([1, 2]), item_ids=IdMap(range(1, 9)), sequences=(rows, rows))
    recipe = dataclasses.replace(CONFIG, num_prompts=3)
    with pytest.raises(ConfigError, match=r"num_prompts = 3 .*choose fewer prompts"):
        train(few_items, recipe, tmp_path / "run", data_name="made up", progress=False)
    assert not (tmp_path / "run").exists()
