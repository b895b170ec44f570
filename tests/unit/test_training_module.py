from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from recgpt.config import LOSSES, ModelConfig, StageConfig
from recgpt.model.decoder import SHARED_USER_ROW, Decoder
from recgpt.training.batches import collate_training, plain_examples
from recgpt.training.losses import target_shares
from recgpt.training.module import StageModule, drop_users

# A step logs its loss; without a trainer there is nobody to log to.
pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")

# float32 sums in another order.
TOLERANCE = 1e-5


def make_module(similarity="cosine", **stage):
    torch.manual_seed(0)
    config = ModelConfig(
        max_length=6, hidden_size=8, num_heads=2, ffn_size=16, dropout=0.0, similarity=similarity, temperature=0.2
    )
    decoder = Decoder(config, num_items=30, num_users=5)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    return StageModule(decoder, StageConfig(**stage), quotas=(10,), seed=0)


def make_sequences():
    rng = np.random.default_rng(0)
    return [rng.integers(1, 31, length) for length in (2, 5, 3, 7, 2)]


@pytest.mark.parametrize("future_share", [0.0, 0.4])
@pytest.mark.parametrize(("similarity", "temperature"), [("cosine", 0.2), ("inner_product", 1.0)])
def test_the_loss_is_the_mean_over_all_targets_however_the_batch_is_cut(similarity, temperature, future_share):
    module = make_module(similarity, user_dropout=0.0, future_share=future_share)
    examples = plain_examples(make_sequences(), 6)
    losses = []
    for example in examples:
        hidden = module.decoder(
            torch.tensor([example.user_row]),
            torch.from_numpy(example.item_rows)[None],
            torch.from_numpy(example.segments)[None],
        )[0]
        scores = hidden @ module.decoder.item_matrix[1:].T / temperature
        targets = torch.from_numpy(example.targets)
        wanted = torch.zeros(len(targets), 31).scatter_add(1, targets, target_shares(targets, future_share))[:, 1:]
        losses.append(functional.cross_entropy(scores, wanted, reduction="none"))
    loss = module.training_step(collate_training(examples), 0)
    assert loss.item() == pytest.approx(torch.cat(losses).mean().item(), abs=TOLERANCE)


def test_users_are_dropped_with_the_probability_given():
    torch.manual_seed(0)
    users = torch.arange(1, 10_001)
    assert torch.equal(drop_users(users, 0.0), users)
    assert not drop_users(users, 1.0).any()
    dropped = drop_users(users, 0.3)
    # 3000 expected, standard deviation 46.
    assert 2800 < (dropped == 0).sum() < 3200
    assert torch.equal(dropped[dropped != 0], users[dropped != 0])


@pytest.mark.parametrize("loss", LOSSES)
def test_users_own_vectors_learn_without_user_dropout(loss):
    module = make_module(user_dropout=0.0, loss=loss)
    module.training_step(collate_training(plain_examples(make_sequences(), 6)), 0).backward()
    gradient = module.decoder.user_embedding.weight.grad
    assert set(gradient.abs().sum(dim=1).nonzero().flatten().tolist()) - {SHARED_USER_ROW} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("loss", LOSSES)
def test_no_gradient_is_made_for_users_when_all_count_as_the_shared_one(loss):
    module = make_module(user_dropout=1.0, loss=loss)
    module.training_step(collate_training(plain_examples(make_sequences(), 6)), 0).backward()
    assert module.decoder.user_embedding.weight.grad is None


def test_a_stage_without_users_vectors_does_not_keep_the_next_from_training_them():
    module = make_module(user_dropout=1.0)
    later = StageModule(module.decoder, StageConfig(user_dropout=0.5), quotas=(9, 1), seed=0)
    assert later.decoder.user_embedding.weight.requires_grad


@pytest.mark.parametrize("loss", LOSSES)
def test_padding_is_never_trained(loss):
    module = make_module(loss=loss)
    module.training_step(collate_training(plain_examples(make_sequences(), 6)), 0).backward()
    assert not module.decoder.item_embedding.weight.grad[0].any()
