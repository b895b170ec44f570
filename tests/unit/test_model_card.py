from __future__ import annotations

import dataclasses
import json

import pytest

from recgpt.backends.base import ModelSpec
from recgpt.bundle import Manifest
from recgpt.errors import DataError
from recgpt.model_card import read_evaluation, render_card
from recgpt.training_state import TrainingState

SPEC = ModelSpec(
    num_items=12_101, num_users=22_363, max_length=50, hidden_size=64, num_blocks=1, num_heads=2
)  # fmt: skip
TRAINING = TrainingState(
    stage="prompt_tuned",
    num_prompts=2,
    num_epochs=27,
    seed=3,
    data="beauty.txt.xz",
    data_sha256="0123abcd",
    recipe={"model": {"dropout": 0.4}},
    validation={"ndcg@10": 0.07123},
)
EVALUATION = {
    "training": TRAINING.to_dict(),
    "rows": [
        {"name": "RecGPT", "quotas": [9, 1], "hr@5": 0.0641, "hr@10": 0.0887, "ndcg@5": 0.0465, "ndcg@10": 0.0543},
        {"name": "PopRec", "quotas": None, "hr@5": 0.01, "hr@10": 0.02, "ndcg@5": 0.005, "ndcg@10": 0.006},
    ],
}


def card(training=TRAINING, evaluation=EVALUATION):
    manifest = Manifest(
        version=20261121,
        model=SPEC,
        graph_format="onnx",
        dtype="float32",
        num_interests=(2,),
        training=training,
        item_matrix_sha256="",
        fingerprint=(),
        packages={},
        files={},
    )
    return render_card(manifest, num_interactions=153_776, evaluation=evaluation)


def test_a_card_says_data_recipe_quality_and_limits():
    text = card()
    for fact in (
        "# RecGPT on beauty.txt.xz, version 20261121", "`0123abcd`", "12,101", "22,363", "153,776", "27 epochs",
        "2 generated prompts", '"dropout": 0.4', "ndcg@10 0.0712", "newest 50 tokens",
        "| RecGPT | 9,1 | 0.0641 | 0.0887 | 0.0465 | 0.0543 |", "| PopRec |  | 0.0100 |",
    ):  # fmt: skip
        assert fact in text, fact


def test_what_is_not_known_is_said():
    training = TrainingState(stage="pretrained", num_prompts=0, num_epochs=1, seed=0, data="x")
    text = card(training, {})
    assert text.count("not recorded") == 2
    assert "not evaluated" in text


def test_an_ensemble_has_its_members_seeds_and_validation_and_each_recipe_once():
    other = dataclasses.replace(TRAINING, seed=4, recipe={"model": {"dropout": 0.4}, "seed": 4})
    unlike = dataclasses.replace(TRAINING, stage="pretrained", recipe={"model": {"dropout": 0.5}}, validation={})
    members = tuple(state.to_dict() for state in (TRAINING, other, unlike))
    text = card(dataclasses.replace(TRAINING, num_members=3, members=members, validation={}), {})
    for fact in (
        "An ensemble of 3 models", "Pre-trained, then tuned with 2 generated prompts an item; seed 3, 4; 27, 27 epochs",
        "Pre-trained; seed 3; 27 epochs", "weights of seed 4 were chosen: ndcg@10 0.0712",
        "weights of seed 3 were chosen: not recorded",
    ):  # fmt: skip
        assert fact in text, fact
    assert (text.count('"dropout": 0.4'), text.count('"dropout": 0.5')) == (1, 1)


def test_prompts_that_were_shown_and_not_taken_are_no_generated_ones():
    text = card(dataclasses.replace(TRAINING, prompts="feedback"))
    assert "tuned on up to 2 unclicked items before each click as prompts" in text
    assert "generated prompts" not in text
    assert "tuned without prompts" in card(dataclasses.replace(TRAINING, num_prompts=0))


def test_an_evaluation_is_taken_from_its_file(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(EVALUATION))
    assert read_evaluation(path, TRAINING) == json.loads(path.read_text())


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"training": {}, "rows": [{"name": "RecGPT"}]}'])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(DataError, match="expected what recgpt evaluate --json writes"):
        read_evaluation(path, TRAINING)
    with pytest.raises(DataError, match="expected what recgpt evaluate --json writes"):
        read_evaluation(tmp_path / "missing.json", TRAINING)


def test_the_evaluation_of_another_model_is_refused(tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(EVALUATION | {"training": TRAINING.to_dict() | {"seed": 4}}))
    with pytest.raises(DataError, match="another model"):
        read_evaluation(path, TRAINING)
