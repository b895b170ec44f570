from __future__ import annotations

import numpy as np
import pytest
import torch

from recgpt.bench.walks import CachedWalk, RecomputedWalk, Walked, share_of_equal_walks, walk_interests, walk_prompts
from recgpt.config import ModelConfig
from recgpt.model.decoder import Decoder

# The same sums in another order, on values of about 1.
TOLERANCE = 1e-5


@pytest.fixture(params=[1, 3])
def decoder(request):
    torch.manual_seed(0)
    config = ModelConfig(max_length=12, hidden_size=8, num_heads=2, ffn_size=16, num_blocks=request.param)
    made = Decoder(config, num_items=40, num_users=1).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


ROWS = torch.tensor([[3, 17, 5, 29], [8, 8, 1, 40]])


def last_interest(decoder, rows, segments):
    """By the whole sequence at all positions; what the padding row scores counts like any other, as in the walks."""
    with torch.no_grad():
        return decoder(torch.zeros(1, dtype=torch.int64), torch.tensor([rows]), torch.tensor([segments]))[0, -1]


def best(decoder, interest):
    return int((decoder.item_matrix @ interest).argmax())


@pytest.mark.parametrize("walk", [CachedWalk, RecomputedWalk])
def test_interests_are_those_of_the_sequence_grown_by_hand(decoder, walk):
    found, generated = walk_interests(walk, decoder, ROWS, 4)
    for row, history in enumerate(ROWS.tolist()):
        segments = [0] * len(history)
        for step in range(4):
            interest = last_interest(decoder, history, segments)
            np.testing.assert_allclose(found[row, step].numpy(), interest.numpy(), rtol=0, atol=TOLERANCE)
            history, segments = [*history, best(decoder, interest)], [*segments, 1]
        assert generated[row].tolist() == history[4:-1]


@pytest.mark.parametrize("walk", [CachedWalk, RecomputedWalk])
@pytest.mark.parametrize("num_prompts", [1, 2])
def test_prompts_stand_before_every_item_but_the_first(decoder, walk, num_prompts):
    found, generated = walk_prompts(walk, decoder, ROWS, num_prompts)
    for row, history in enumerate(ROWS.tolist()):
        rows, segments = history[:1], [0]
        for item in history[1:]:
            for _ in range(num_prompts):
                rows, segments = [*rows, best(decoder, last_interest(decoder, rows, segments))], [*segments, 1]
            rows, segments = [*rows, item], [*segments, 0]
        interest = last_interest(decoder, rows, segments)
        np.testing.assert_allclose(found[row, 0].numpy(), interest.numpy(), rtol=0, atol=TOLERANCE)
        assert generated[row].tolist() == [item for item, kind in zip(rows, segments, strict=True) if kind == 1]


def test_walks_are_equal_where_items_and_lists_are(decoder):
    walked = walk_interests(CachedWalk, decoder, ROWS, 3)
    assert share_of_equal_walks(walked, walked, decoder, k=5) == 1.0
    other_items = Walked(walked.interests, walked.generated + torch.tensor([[0, 1], [0, 0]]))
    assert share_of_equal_walks(walked, other_items, decoder, k=5) == 0.5
    upside_down = walked.interests * torch.tensor([1.0, -1.0])[:, None, None]
    assert share_of_equal_walks(walked, Walked(upside_down, walked.generated), decoder, k=5) == 0.5
