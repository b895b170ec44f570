from __future__ import annotations

import pytest
import torch

from recgpt.config import ModelConfig
from recgpt.graphs.folded import FoldedEmbedding, LastBlock, StepBias
from recgpt.model.decoder import Decoder

# Products of weights in another order: float32 rounding of values of about 1.
TOLERANCE = 1e-5


def make_decoder(**changes):
    torch.manual_seed(0)
    config = ModelConfig(max_length=7, hidden_size=12, ffn_size=16, **{"num_blocks": 1, "num_heads": 3} | changes)
    decoder = Decoder(config, num_items=30, num_users=4)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return decoder.eval()


def make_rows():
    generator = torch.Generator().manual_seed(1)
    users = torch.randint(0, 5, (5,), generator=generator)
    items = torch.randint(1, 31, (5, 7), generator=generator)
    return users, items, torch.randint(0, 2, (5, 7), generator=generator)


PAPER = {"attention_scale": "model", "activation": "relu", "position": "absolute", "similarity": "inner_product"}


@pytest.mark.parametrize("changes", [{}, PAPER], ids=["default", "the paper's"])
@pytest.mark.parametrize("has_users", [True, False])
@torch.no_grad()
def test_the_folded_embedding_is_the_decoders(has_users, changes):
    decoder = make_decoder(**changes)
    if not has_users:
        decoder.user_embedding.weight.zero_()
    users, items, segments = make_rows()
    positions = torch.arange(7).unsqueeze(0)
    folded = FoldedEmbedding(decoder)
    assert folded.has_users == has_users
    for place in (positions, positions.flip(1).expand(5, -1)):
        torch.testing.assert_close(
            folded(users, items, segments, place),
            decoder.embed(users, items, segments, place),
            rtol=0,
            atol=TOLERANCE,
        )
        torch.testing.assert_close(
            folded.prompts(users, items, place),
            decoder.embed(users, items, torch.ones_like(items), place),
            rtol=0,
            atol=TOLERANCE,
        )


@pytest.mark.parametrize(
    "changes",
    [{"num_heads": 1}, {}, PAPER],
    ids=["one head", "three heads", "the paper's"],
)
@torch.no_grad()
def test_the_last_block_answers_for_the_last_position_what_the_decoder_answers(changes):
    decoder = make_decoder(**changes)
    users, items, segments = make_rows()
    expected = decoder(users, items, segments)[:, 4]
    hidden = decoder.embed(users, items, segments, torch.arange(7).unsqueeze(0))
    last = LastBlock(decoder.blocks[0])
    # The two tokens behind the one that asks may not be seen.
    distances = (4 - torch.arange(7)).expand(5, 1, -1)
    bias = decoder.blocks[0].score_bias(distances >= 0, distances).squeeze(2)
    found = decoder.normalise(last(hidden[:, 4], last.normalise(hidden), bias))
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("changes", [{}, PAPER], ids=["default", "the paper's"])
@torch.no_grad()
def test_the_steps_bias_is_the_blocks_with_the_mask_of_padding(changes):
    block = make_decoder(**changes).blocks[0]
    lengths, width, most_generated = torch.tensor([[1], [3], [4]]), 4, 2
    by_step = StepBias(block, max_length=7, num_steps=most_generated + 1)
    places = StepBias.places(lengths, torch.arange(width).unsqueeze(0), most_generated + 1)
    for step in range(most_generated + 1):
        # The newest token stands behind the history and what was generated before it.
        newest = lengths - 1 + step
        positions = torch.cat([torch.arange(width).expand(3, -1), lengths + torch.arange(step)], dim=1)
        is_real = torch.cat([torch.arange(width) < lengths, torch.ones(3, step, dtype=torch.bool)], dim=1)
        expected = block.score_bias(is_real.unsqueeze(1), (newest - positions).unsqueeze(1)).squeeze(2)
        found = by_step(torch.cat([places, torch.arange(step).expand(3, -1)], dim=1), step)
        assert torch.equal(found, expected)


@torch.no_grad()
def test_the_steps_bias_refuses_what_lies_farther_back_than_the_window():
    by_step = StepBias(make_decoder().blocks[0], max_length=7, num_steps=2)
    by_step(torch.tensor([[1 + 6]]), 1)
    with pytest.raises(IndexError):
        by_step(torch.tensor([[1 + 7]]), 1)
