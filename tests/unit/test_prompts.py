from __future__ import annotations

import numpy as np
import pytest
import torch

from recgpt.config import ModelConfig
from recgpt.errors import ConfigError
from recgpt.model.decoder import Decoder
from recgpt.model.prompts import generate_prompts, num_real_items


def make_decoder(*, max_length=9, num_items=40, num_blocks=2, seed=0):
    torch.manual_seed(seed)
    config = ModelConfig(max_length=max_length, hidden_size=8, num_heads=2, ffn_size=16, num_blocks=num_blocks)
    decoder = Decoder(config, num_items=num_items, num_users=6).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    return decoder


def make_histories(num_items=40):
    rng = np.random.default_rng(1)
    return [rng.choice(num_items, size, replace=False) + 1 for size in (3, 1, 20, 2, 5, 7)]


@torch.no_grad()
def enrich_slowly(decoder, user_row, full_history, num_prompts):
    """Algorithm 1 as it reads, the whole sequence recomputed for each generated item."""
    history = full_history
    while len(history) + num_prompts * (len(history) - 1) > decoder.config.max_length:
        history = history[1:]
    rows, segments = [int(history[0])], [0]
    dropped = len(full_history) - len(history)
    blocked = set(full_history[: dropped + 1].tolist())
    for item in history[1:].tolist():
        for _ in range(num_prompts):
            interests = decoder(torch.tensor([user_row]), torch.tensor([rows]), torch.tensor([segments]))
            scores = decoder.item_matrix @ interests[0, -1]
            best = max((row for row in range(1, len(scores)) if row not in blocked), key=lambda row: float(scores[row]))
            blocked.add(best)
            rows.append(best)
            segments.append(1)
        blocked.add(item)
        rows.append(item)
        segments.append(0)
    return rows, segments


@pytest.mark.parametrize("num_prompts", [1, 2, 3])
@pytest.mark.parametrize("num_blocks", [1, 2])
def test_cached_generation_equals_full_recomputation(num_prompts, num_blocks):
    decoder, histories = make_decoder(num_blocks=num_blocks), make_histories()
    users = np.array([1, 2, 0, 4, 5, 6])
    found = generate_prompts(decoder, users, histories, num_prompts=num_prompts, batch_size=4)
    for user, history, (rows, segments) in zip(users.tolist(), histories, found, strict=True):
        assert (rows.tolist(), segments.tolist()) == enrich_slowly(decoder, user, history, num_prompts)


def test_no_prompts_gives_the_newest_items_of_the_window():
    decoder, histories = make_decoder(max_length=6), make_histories()
    for history, (rows, segments) in zip(
        histories, generate_prompts(decoder, np.zeros(6, np.int64), histories, num_prompts=0), strict=True
    ):
        assert rows.tolist() == history[-6:].tolist()
        assert segments.tolist() == [0] * len(rows)


def test_the_batch_size_does_not_matter():
    decoder, histories = make_decoder(), make_histories()
    users = np.arange(1, 7)
    one = generate_prompts(decoder, users, histories, num_prompts=2, batch_size=1)
    all_at_once = generate_prompts(decoder, users, histories, num_prompts=2, batch_size=100)
    assert [rows.tolist() for rows, _ in one] == [rows.tolist() for rows, _ in all_at_once]


def test_later_items_do_not_leak_into_earlier_prompts():
    decoder = make_decoder(max_length=20)
    history = make_histories()[4]
    [(rows, _)] = generate_prompts(decoder, np.array([1]), [history], num_prompts=1)
    # The second prompt is put where the model itself would have it; knowing the future must not forbid it.
    second_prompt = rows[3]
    future = np.concatenate([history[:3], [second_prompt]])
    [(again, _)] = generate_prompts(decoder, np.array([1]), [future], num_prompts=1)
    assert again[:5].tolist() == rows[:5].tolist()


def test_prompts_are_distinct_and_unseen_by_then():
    decoder, histories = make_decoder(max_length=30), make_histories()
    for rows, segments in generate_prompts(decoder, np.arange(1, 7), histories, num_prompts=2):
        for position in np.flatnonzero(segments == 1):
            assert rows[position] not in rows[:position]
            assert rows[position] != 0


def test_an_empty_history_stays_empty():
    decoder = make_decoder()
    found = generate_prompts(decoder, np.array([1, 2]), [np.zeros(0, np.int64), np.array([3, 4])], num_prompts=1)
    assert [len(rows) for rows, _ in found] == [0, 3]


def test_the_decoders_mode_is_restored():
    decoder = make_decoder().train()
    generate_prompts(decoder, np.array([1]), [np.array([1, 2])], num_prompts=1)
    assert decoder.training


def test_a_catalogue_too_small_for_the_prompts_is_refused():
    decoder = make_decoder(num_items=6, max_length=20)
    with pytest.raises(ConfigError, match="num_prompts = 2 needs up to 10 distinct items"):
        generate_prompts(decoder, np.array([1]), [np.array([1, 2, 3, 4])], num_prompts=2)


@pytest.mark.parametrize("max_length", [2, 9, 10, 50])
@pytest.mark.parametrize("num_prompts", [0, 1, 2, 6])
def test_as_many_real_items_as_fit(max_length, num_prompts):
    real = num_real_items(max_length, num_prompts)
    assert real + num_prompts * (real - 1) <= max_length < (real + 1) + num_prompts * real
