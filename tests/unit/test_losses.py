from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from recgpt.training.losses import (
    full_cross_entropy,
    sample_items,
    sample_negatives,
    sampled_bce,
    sampled_cross_entropy,
    target_shares,
)

# Sums of some ten thousand float64 terms in another order.
TOLERANCE = 1e-12


def next_item_loss(interests, targets, items):
    """Of targets (N,) alone."""
    targets = targets.unsqueeze(1)
    return full_cross_entropy(interests, targets, target_shares(targets, 0.0), items)


def test_cross_entropy_by_hand_leaves_padding_out():
    interest = torch.tensor([[1.0, 0.0]])
    # Scores: row 0 (padding) would be 100, row 1 is 2, row 2 is 0.
    items = torch.tensor([[100.0, 0.0], [2.0, 5.0], [0.0, -3.0]])
    loss = next_item_loss(interest, torch.tensor([2]), items)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + math.exp(0)) - 0, abs=1e-6)


@pytest.mark.parametrize("num_rows", [1, 64, 200])
def test_cross_entropy_and_gradients_equal_torch_over_several_chunks(num_rows):
    generator = torch.Generator().manual_seed(num_rows)
    # More items than one chunk of 64 rows holds by its size, so that 200 rows are four chunks.
    num_items = 25_000
    interests = torch.randn(num_rows, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    items = torch.randn(num_items + 1, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, num_items + 1, (num_rows,), generator=generator)
    loss = next_item_loss(interests, targets, items)
    expected = functional.cross_entropy(interests @ items[1:].T, targets - 1)
    assert loss.item() == pytest.approx(expected.item(), abs=TOLERANCE)
    for found, wanted in zip(
        torch.autograd.grad(3 * loss, [interests, items]),
        torch.autograd.grad(3 * expected, [interests, items]),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)


def test_under_autocast_cross_entropy_differs_by_the_rounding_of_products_only():
    generator = torch.Generator().manual_seed(0)
    interests = torch.randn(200, 16, generator=generator, requires_grad=True)
    items = torch.randn(25_001, 16, generator=generator, requires_grad=True)
    targets = torch.randint(1, 25_001, (200,), generator=generator)
    expected = functional.cross_entropy(interests @ items[1:].T, targets - 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = next_item_loss(interests, targets, items)
    assert loss.dtype == torch.float32
    # A bfloat16 has 8 bits: each factor and product is off by at most 2**-9 of itself.
    assert loss.item() == pytest.approx(expected.item(), rel=2**-8)
    for found, wanted in zip(
        torch.autograd.grad(loss, [interests, items]), torch.autograd.grad(expected, [interests, items]), strict=True
    ):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() <= 2**-6 * wanted.norm()
    assert not torch.equal(loss, expected)


def test_cross_entropy_survives_huge_scores():
    interests = torch.tensor([[1000.0], [-1000.0]])
    items = torch.tensor([[0.0], [1.0], [-1.0]])
    loss = next_item_loss(interests, torch.tensor([1, 1]), items)
    assert loss.item() == pytest.approx((0.0 + 2000.0) / 2)


def test_cross_entropy_of_several_targets_is_the_mean_of_theirs_by_their_shares():
    generator = torch.Generator().manual_seed(0)
    interests = torch.randn(70, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    items = torch.randn(25_001, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, 25_001, (70, 3), generator=generator)
    targets[:10, 2] = 0
    # An item may come twice.
    targets[20:30, 1] = targets[20:30, 0]
    shares = torch.rand(70, 3, generator=generator, dtype=torch.float64) * (targets != 0)
    shares /= shares.sum(dim=1, keepdim=True)
    loss = full_cross_entropy(interests, targets, shares, items)
    wanted = torch.zeros(70, 25_001, dtype=torch.float64).scatter_add(1, targets, shares)[:, 1:]
    expected = functional.cross_entropy(interests @ items[1:].T, wanted)
    assert loss.item() == pytest.approx(expected.item(), abs=TOLERANCE)
    gradients = [torch.autograd.grad(each, [interests, items]) for each in (loss, expected)]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)


def test_shares_fall_by_half_and_what_is_missing_is_shared_by_the_others():
    targets = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 0], [5, 6, 0, 0], [5, 0, 0, 0]])
    expected = [[0.3, 0.4, 0.2, 0.1], [0.3, 7 / 15, 7 / 30, 0.0], [0.3, 0.7, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(target_shares(targets, 0.7), torch.tensor(expected))
    assert target_shares(targets, 0.0).tolist() == [[1.0, 0.0, 0.0, 0.0]] * 4
    assert target_shares(targets[:, :1], 0.7).tolist() == [[1.0]] * 4


def test_bce_by_hand():
    interest = torch.tensor([[1.0, 2.0]])
    items = torch.tensor([[9.0, 9.0], [0.5, 0.25], [1.0, -1.0], [0.0, 1.0]])
    # Scores: target row 1 = 1, negatives rows 2 and 3 = -1 and 2.
    loss = sampled_bce(interest, torch.tensor([1]), items, torch.tensor([[2, 3]]))
    sigmoid = [1 / (1 + math.exp(-score)) for score in (1.0, -1.0, 2.0)]
    by_hand = -math.log(sigmoid[0]) - math.log(1 - sigmoid[1]) - math.log(1 - sigmoid[2])
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)


def test_negatives_are_uniform_over_all_rows_but_padding_and_the_target():
    torch.manual_seed(0)
    targets = torch.tensor([1, 3, 5])
    negatives = sample_negatives(targets, 4000, num_items=5)
    assert negatives.shape == (3, 4000)
    for target, row in zip(targets.tolist(), negatives, strict=True):
        counts = torch.bincount(row, minlength=6)
        assert counts[0] == 0 and counts[target] == 0
        others = counts[[item for item in range(1, 6) if item != target]]
        # 1000 expected each, standard deviation 27.
        assert others.min() > 850 and others.max() < 1150


def test_the_sampled_loss_of_all_items_is_the_full_one():
    generator = torch.Generator().manual_seed(0)
    interests = torch.randn(7, 4, generator=generator, requires_grad=True)
    items = torch.randn(21, 4, generator=generator, requires_grad=True)
    targets = torch.randint(1, 21, (7,), generator=generator)
    drawn = sample_items(20, 20, torch.device("cpu"))
    assert drawn.tolist() == list(range(1, 21))
    losses = [
        sampled_cross_entropy(interests, targets, items, drawn),
        functional.cross_entropy(interests @ items[1:].T, targets - 1),
    ]
    # float32 sums in another order.
    torch.testing.assert_close(*losses, atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad(loss, [interests, items]) for loss in losses]
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_sample_by_hand_stands_for_all_items_but_the_target():
    interest = torch.tensor([[1.0]])
    # Padding would score 100; the target (row 1) 0; rows 2 to 5 score 1, 2, 3, 4.
    items = torch.tensor([[100.0], [0.0], [1.0], [2.0], [3.0], [4.0]])
    # Two of four others are drawn: each stands for two. The target, drawn as well, is no negative of its own.
    expected = math.log(1 + 2 * math.exp(1) + 2 * math.exp(4))
    for drawn in ([2, 5], [2, 1, 5]):
        loss = sampled_cross_entropy(interest, torch.tensor([1]), items, torch.tensor(drawn))
        assert loss.item() == pytest.approx(expected, abs=1e-5)
    alone = sampled_cross_entropy(interest, torch.tensor([1]), items, torch.tensor([1]))
    assert alone.item() == 0.0


def test_drawn_items_are_different_and_all_come_up():
    torch.manual_seed(0)
    drawn = [sample_items(3, 5, torch.device("cpu")).tolist() for _ in range(200)]
    assert all(len(set(rows)) == 3 for rows in drawn)
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=6)
    assert counts[0] == 0
    # 120 expected, standard deviation 7.
    assert ((counts[1:] > 90) & (counts[1:] < 150)).all()
