from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_model import random_checkpoint

from recgpt.config import ModelConfig
from recgpt.data.interactions import Interactions
from recgpt.data.split import leave_one_out
from recgpt.eager import eager_recaller
from recgpt.evaluation import evaluate_lists
from recgpt.model.decoder import Decoder
from recgpt.training.batches import collate_evaluation, evaluation_examples
from recgpt.training.ranking import held_out_ranks, recalled_ranks, target_ranks


def rank_by_brute_force(scores, target, seen):
    if target in seen:
        return len(scores) - 1
    rivals = [row for row in range(1, len(scores)) if row != target and row not in seen]
    return 1 + sum(scores[row] >= scores[target] for row in rivals)


def test_ranks_equal_brute_force_with_many_ties():
    rng = np.random.default_rng(0)
    num_items = 12
    scores = rng.integers(-2, 3, (200, num_items + 1)).astype(np.float32)
    targets = rng.integers(1, num_items + 1, 200)
    seen = rng.integers(0, num_items + 1, (200, 4))
    seen[seen == targets[:, None]] = 0
    ranks = target_ranks(torch.from_numpy(scores), torch.from_numpy(targets), torch.from_numpy(seen))
    expected = [rank_by_brute_force(*row) for row in zip(scores, targets, seen.tolist(), strict=True)]
    assert ranks.tolist() == expected


def test_padding_never_stands_before_the_target():
    scores = torch.tensor([[9.0, 1.0, 0.0]])
    assert target_ranks(scores, torch.tensor([1]), torch.tensor([[0]])).tolist() == [1]


def test_seen_items_with_negative_targets_do_not_outrank():
    scores = torch.tensor([[0.0, -5.0, 3.0, -6.0]])
    assert target_ranks(scores, torch.tensor([1]), torch.tensor([[2]])).tolist() == [1]


def test_a_seen_target_is_ranked_last():
    scores = torch.tensor([[0.0, 9.0, 3.0, 1.0]])
    assert target_ranks(scores, torch.tensor([1]), torch.tensor([[1]])).item() >= 3


def test_scores_that_are_no_numbers_count_against_the_model():
    scores = torch.tensor([[0.0, 9.0, torch.nan, 1.0], [0.0, torch.nan, 2.0, 1.0]])
    assert target_ranks(scores, torch.tensor([1, 1]), torch.tensor([[0], [0]])).tolist() == [2, 4]


@pytest.mark.parametrize("quotas", [(10,), (9, 1), (3, 2, 1)])
def test_recalled_ranks_equal_lists_made_from_scratch(quotas):
    torch.manual_seed(0)
    decoder = Decoder(ModelConfig(max_length=8, hidden_size=8, ffn_size=16, num_blocks=2), num_items=25, num_users=40)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    decoder.eval()
    rng = np.random.default_rng(0)
    histories = [rng.choice(25, rng.integers(1, 12), replace=False) + 1 for _ in range(40)]
    targets = rng.integers(1, 26, 40)
    examples = evaluation_examples(histories, targets, 8 - (len(quotas) - 1))
    found = recalled_ranks(decoder, collate_evaluation(examples), quotas)
    lists = [
        recall_from_scratch(decoder, example.user_row, example.item_rows.tolist(), set(example.seen.tolist()), quotas)
        for example in examples
    ]
    expected = [
        rows.index(example.target) + 1 if example.target in rows else 0
        for example, rows in zip(examples, lists, strict=True)
    ]
    assert found.tolist() == expected
    assert any(expected) and not all(expected)


@torch.no_grad()
def recall_from_scratch(decoder, user, rows, seen, quotas):
    segments, recalled, generated = [0] * len(rows), [], set()
    for quota in quotas:
        interest = decoder(torch.tensor([user]), torch.tensor([rows]), torch.tensor([segments]))[0, -1]
        scores = (decoder.item_matrix @ interest).tolist()
        unseen = sorted(set(range(1, len(scores))) - seen, key=lambda row: -scores[row])
        recalled += [row for row in unseen if row not in recalled][:quota]
        best = next(row for row in unseen if row not in generated)
        generated.add(best)
        rows, segments = [*rows, best], [*segments, 1]
    return recalled


def test_a_list_longer_than_the_catalogue_holds_the_whole_catalogue():
    decoder = Decoder(ModelConfig(max_length=4, hidden_size=8, ffn_size=8), num_items=3, num_users=1).eval()
    examples = evaluation_examples([np.array([1])], np.array([2]), 3)
    assert recalled_ranks(decoder, collate_evaluation(examples), (9, 1)).item() in (1, 2)


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("stage", ["validation", "test"])
def test_held_out_ranks_equal_those_of_the_lists_that_recall_serves(stage, filter_seen):
    checkpoint = random_checkpoint()
    rng = np.random.default_rng(0)
    lengths = (30, 1, 3, 12, 2, 7, 25, 4, 19, 20)
    sequences = tuple(rng.integers(1, checkpoint.decoder.num_items + 1, length) for length in lengths)
    interactions = Interactions(user_ids=checkpoint.user_ids, item_ids=checkpoint.item_ids, sequences=sequences)
    split = leave_one_out(interactions)
    with eager_recaller(checkpoint) as recaller:
        for quotas in ((100,), (60, 40), (30, 30, 40)):
            lists = evaluate_lists(recaller, split, stage=stage, quotas=quotas, filter_seen=filter_seen)
            ranks = held_out_ranks(
                checkpoint.decoder, split, quotas, stage=stage, filter_seen=filter_seen, batch_size=3
            )
            assert ranks.tolist() == lists.ranks.tolist()
            assert ranks.max() > 0
