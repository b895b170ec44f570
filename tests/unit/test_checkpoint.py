from __future__ import annotations

import dataclasses
import pickle
import resource
import zipfile

import numpy as np
import pytest
import torch

from recgpt.config import ModelConfig
from recgpt.data.ids import IdMap
from recgpt.errors import CheckpointError, OutputError
from recgpt.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recgpt.model.decoder import Decoder
from recgpt.training_state import TrainingState


def make_checkpoint(*, item_ids=(10, 20, 30), user_ids=("ann", "bob"), tied=True):
    torch.manual_seed(0)
    config = ModelConfig(max_length=5, hidden_size=8, num_heads=2, ffn_size=8, num_blocks=2, tied=tied)
    return Checkpoint(
        decoder=Decoder(config, num_items=len(item_ids), num_users=len(user_ids)).eval(),
        item_ids=IdMap(item_ids),
        user_ids=IdMap(user_ids),
        popularity=np.array([0, 3, 2, 1]),
        training=TrainingState(
            stage="prompt_tuned", num_prompts=2, num_epochs=7, seed=5, data="toy", validation={"ndcg@10": 0.25}
        ),
        examples=((1, np.array([1, 2])), (2, np.array([3]))),
    )


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "run" / "ckpt.pt"
    path.parent.mkdir()
    save_checkpoint(path, make_checkpoint())
    return path


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("item_ids", [(10, 20, 30), ("a", "b", "ü"), (2**63 - 1, -(2**63), 2**80)])
def test_a_checkpoint_comes_back_as_it_was(tmp_path, tied, item_ids):
    before = make_checkpoint(item_ids=item_ids, tied=tied)
    save_checkpoint(tmp_path / "ckpt.pt", before)
    after = load_checkpoint(tmp_path / "ckpt.pt")
    assert after.decoder.config == before.decoder.config
    assert not after.decoder.training
    for name, weight in before.decoder.state_dict().items():
        assert torch.equal(after.decoder.state_dict()[name], weight)
    assert after.item_ids.ids == item_ids and after.user_ids.ids == ("ann", "bob")
    assert after.popularity.tolist() == [0, 3, 2, 1] and after.popularity.dtype == np.int64
    assert after.training == before.training
    assert [(user, rows.tolist()) for user, rows in after.examples] == [(1, [1, 2]), (2, [3])]


def test_the_file_holds_no_code(saved):
    assert torch.load(saved, weights_only=True)["format"] == "recgpt-checkpoint"


def test_a_missing_checkpoint_says_how_to_make_one(tmp_path):
    with pytest.raises(CheckpointError, match=r"no such file.*recgpt train"):
        load_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(saved)


def test_a_flipped_byte_of_the_weights_is_found(saved):
    with zipfile.ZipFile(saved) as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
        weights = archive.read(largest)
    content = saved.read_bytes()
    start = content.index(weights)
    saved.write_bytes(content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(saved)


class _Code:
    ran = False

    def __reduce__(self):
        return (setattr, (_Code, "ran", True))


def test_pickled_code_is_refused_and_not_run(tmp_path):
    torch.save({"format": "recgpt-checkpoint", "version": 1, "model": _Code()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not _Code.ran


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), b"not a checkpoint", b""])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "other.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path / "other.pt")


@pytest.mark.parametrize("value", [{"state_dict": {}}, [1, 2], torch.zeros(3)])
def test_another_programs_torch_file_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="recgpt train"):
        load_checkpoint(tmp_path / "other.pt")


def test_another_version_is_named(saved):
    torch.save({**torch.load(saved, weights_only=True), "version": 99}, saved)
    with pytest.raises(CheckpointError, match="version 99"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {}},
        {"item_ids": torch.tensor([1, 2])},
        {"popularity": torch.tensor([1, 2])},
        {"model": {"hidden_size": -1}},
        {"training": {"stage": "half"}},
        {"user_ids": None},
    ],
)
def test_parts_that_do_not_fit_together_are_refused(saved, change):
    torch.save({**torch.load(saved, weights_only=True), **change}, saved)
    with pytest.raises(CheckpointError, match="do not fit together"):
        load_checkpoint(saved)


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(saved, tmp_path):
    content = saved.read_bytes()
    with pytest.raises(OutputError):
        save_checkpoint(saved / "below_a_file.pt", make_checkpoint())
    broken = dataclasses.replace(make_checkpoint(), popularity=None)
    with pytest.raises(TypeError):
        save_checkpoint(saved, broken)
    assert saved.read_bytes() == content
    assert [path.name for path in saved.parent.iterdir()] == ["ckpt.pt"]


def test_a_disk_without_room_is_an_output_error_and_leaves_the_old_checkpoint(saved):
    content = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, hard))  # a write fails in the middle of the file
    try:
        with pytest.raises(OutputError, match="cannot write"):
            save_checkpoint(saved, make_checkpoint())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved.read_bytes() == content
    assert [path.name for path in saved.parent.iterdir()] == ["ckpt.pt"]


@pytest.mark.parametrize(
    "change", [{"stage": "half-baked"}, {"num_prompts": -1}, {"prompts": "x"}, {"num_epochs": -1}, {"seed": -1}]
)
def test_a_training_state_checks_itself(change):
    values = TrainingState(stage="pretrained", num_prompts=0, num_epochs=1, seed=0, data="x").to_dict()
    assert TrainingState.from_dict(values).to_dict() == values
    with pytest.raises(ValueError, match="expected"):
        TrainingState.from_dict({**values, **change})
