"""An ensemble against its members: every score is the mean of theirs, in every way through the decoder."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_model import NUM_ITEMS, NUM_USERS, random_checkpoint

from recgpt.config import ATTENTION_SCALES, POSITIONS, SIMILARITIES, ModelConfig, TrainingConfig
from recgpt.data.ids import IdMap
from recgpt.errors import ConfigError
from recgpt.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from recgpt.model.decoder import Decoder
from recgpt.model.ensemble import ensemble

# Float32 sums in another order.
TOLERANCE = 1e-4

Make = Callable[[int], Checkpoint]


@pytest.fixture(params=itertools.product(POSITIONS, SIMILARITIES, ATTENTION_SCALES, (True, False)), ids=str)
def make(request: pytest.FixtureRequest) -> Make:
    position, similarity, attention_scale, tied = request.param
    config = ModelConfig(
        max_length=12,
        hidden_size=8,
        num_blocks=2,
        num_heads=2,
        ffn_size=16,
        position=position,
        similarity=similarity,
        attention_scale=attention_scale,
        tied=tied,
    )

    def made(seed: int) -> Checkpoint:
        torch.manual_seed(seed)
        decoder = Decoder(config, num_items=NUM_ITEMS, num_users=NUM_USERS)
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        return dataclasses.replace(random_checkpoint(seed), decoder=decoder.eval())

    return made


def test_its_scores_are_the_mean_of_the_members(make: Make) -> None:
    members = [make(seed) for seed in range(3)]
    together = ensemble(members).decoder
    users, segments = torch.tensor([2, 0]), torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0]])
    items, lengths = torch.tensor([[5, 9, 300, 7], [1, 5, 0, 0]]), torch.tensor([4, 2])
    with torch.no_grad():
        scores = [one.decoder.forward(users, items, segments) @ one.decoder.item_matrix.T for one in members]
        expected = torch.stack(scores).sum(dim=0) / (len(members) if together.is_cosine else 1)
        found = together.forward(users, items, segments) @ together.item_matrix.T
        first, past = together.prefill(users, items, segments, lengths)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(found[row, :length], expected[row, :length], rtol=TOLERANCE, atol=TOLERANCE)
        last = first[row] @ together.item_matrix.T
        torch.testing.assert_close(last, expected[row, length - 1], rtol=TOLERANCE, atol=TOLERANCE)
    assert past.shape == (2, 2, 2, 6, 4, 4), "heads stand side by side, each as wide as before"
    if together.is_cosine:
        torch.testing.assert_close(together.item_matrix[1:].norm(dim=1), torch.ones(NUM_ITEMS))
        torch.testing.assert_close(first.norm(dim=1), torch.ones(2))


def test_it_says_what_it_is_made_of() -> None:
    members = [random_checkpoint(seed) for seed in range(2)]
    together = ensemble(members)
    assert (together.training.num_members, together.training.num_epochs) == (2, 4)
    assert together.training.is_prompt_tuned
    assert together.training.validation == {}
    state = dataclasses.replace(members[1].training, stage="pretrained", num_prompts=0)
    pretrained = dataclasses.replace(members[1], training=state)
    assert not ensemble([members[0], pretrained]).training.is_prompt_tuned


def test_a_file_of_it_is_the_same_model(tmp_path: Path) -> None:
    together = ensemble([random_checkpoint(seed) for seed in range(2)])
    save_checkpoint(tmp_path / "both.pt", together)
    loaded = load_checkpoint(tmp_path / "both.pt")
    assert loaded.decoder.config == together.decoder.config
    assert loaded.training == together.training
    torch.testing.assert_close(loaded.decoder.item_matrix, together.decoder.item_matrix, rtol=0, atol=0)


def test_only_models_of_one_kind_go_together() -> None:
    one, two = random_checkpoint(0), random_checkpoint(1)
    with pytest.raises(ConfigError, match="1 checkpoints: expected at least two"):
        ensemble([one])
    other_ids = dataclasses.replace(two, item_ids=IdMap(range(1, NUM_ITEMS + 1)))
    for other in (other_ids, ensemble([one, two])):
        with pytest.raises(ConfigError, match="models of one architecture"):
            ensemble([one, other])
    with pytest.raises(ConfigError, match="recgpt ensemble"):
        TrainingConfig(model=ModelConfig(num_members=2))
    with pytest.raises(ConfigError, match="num_members = 4 does not divide"):
        ModelConfig(num_members=4)
