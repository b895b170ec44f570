from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from recgpt.backends.base import ModelSpec, check_tokens
from recgpt.backends.eager import EagerBackend
from recgpt.config import ModelConfig
from recgpt.errors import ParityError
from recgpt.graphs.parity import ParityReport, check_parity, random_batches
from recgpt.model.decoder import Decoder
from recgpt.model.item_table import ItemTable

NUM_INTERESTS = (2, 3)

# Cached and recomputed float32 sums differ in their order alone.
TOLERANCE = 1e-5


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    config = ModelConfig(max_length=8, hidden_size=8, num_blocks=2, num_heads=2, ffn_size=16)
    made = Decoder(config, num_items=50, num_users=5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


def compare(decoder, other, **changes):
    reference, candidate = EagerBackend(decoder, fused=NUM_INTERESTS), EagerBackend(other, fused=NUM_INTERESTS)
    return check_parity(
        reference,
        candidate,
        random_batches(reference.spec, max_interests=3),
        num_interests=NUM_INTERESTS,
        item_matrix=decoder.item_matrix.detach().numpy(),
        **changes,
    )


def table_of(vectors):
    table = ItemTable(len(vectors) - 1, vectors.shape[1], unit=False)
    with torch.no_grad():
        table.weight.copy_(vectors)
    return table


def report_with(**changes):
    values = {
        "differences": {"prefill/interest": 1e-7},
        "num_rows": 1,
        "num_generated": 4,
        "num_generated_equal": 4,
        "generated_error": 0.0,
        "k": 10,
        "num_lists": 4,
        "num_lists_equal": 3,
    }
    return ParityReport(**values | changes)


def test_a_decoder_agrees_with_itself(decoder):
    report = compare(decoder, decoder)
    report.require(TOLERANCE)
    assert (report.generated_agreement, report.top_k_agreement) == (1.0, 1.0)
    assert set(report.differences) == {
        "prefill/interest",
        "prefill/present_key_values",
        "decode/interest",
        "decode/present_key_values",
        *(f"{way}_{number}/interests" for way in ("interests", "stepwise") for number in NUM_INTERESTS),
    }
    # 21 rows: a prefill, a decode and, both ways, 2 + 3 steps each, of which the last generates nothing.
    assert (report.num_rows, report.num_generated, report.num_lists) == (21, 21 * (2 + 6), 21 * 10)


@pytest.mark.parametrize(
    ("weight", "tensor"),
    [
        ("final_norm.bias", "interest"),
        ("blocks.0.distance_bias.weight", "prefill/"),
        ("blocks.1.key_value.bias", "present_key_values"),
    ],
)
def test_a_changed_weight_fails_and_the_tensor_is_named(decoder, weight, tensor):
    other = copy.deepcopy(decoder)
    with torch.no_grad():
        parameter = other.get_parameter(weight)
        # Noise, since LayerNorm takes out what all components share.
        parameter.add_(0.05 * torch.randn_like(parameter))
    report = compare(decoder, other)
    assert any(value > 1e-3 for name, value in report.differences.items() if tensor in name)
    with pytest.raises(ParityError, match=r"differs from PyTorch by up to"):
        report.require(TOLERANCE)


def test_other_items_fail_even_where_every_tensor_agrees(decoder):
    other = copy.deepcopy(decoder)
    # The output matrix alone: no interest before the first generated item changes.
    other.output = table_of(decoder.item_matrix.flip(0))
    report = compare(decoder, other)
    assert report.generated_agreement < 0.5
    assert max(value for name, value in report.differences.items()) <= TOLERANCE
    with pytest.raises(ParityError, match="generated_ids"):
        report.require(TOLERANCE)


def test_a_choice_between_twins_is_excused(decoder):
    with torch.no_grad():
        decoder.item_embedding.weight[26:] = decoder.item_embedding.weight[1:26]
    other = copy.deepcopy(decoder)
    other.output = table_of(decoder.item_matrix)
    with torch.no_grad():
        other.output.weight[1:26] -= 1e-7 * torch.sign(other.output.weight[1:26])
        other.output.weight[26:] += 1e-7 * torch.sign(other.output.weight[26:])
    report = compare(decoder, other)
    assert report.generated_agreement < 1
    report.require(TOLERANCE)


@pytest.mark.parametrize("bad", [1e-3, math.nan, math.inf])
def test_require_names_the_worst_tensor(bad):
    report = report_with(differences={"prefill/interest": 1e-7, "decode/interest": bad, "interests_2/interests": 2e-4})
    with pytest.raises(ParityError, match=r"^decode/interest"):
        report.require(1e-4)


def test_generating_what_is_excluded_is_never_excused():
    with pytest.raises(ParityError, match="generated_ids: 1 of 4"):
        report_with(num_generated_equal=3, generated_error=math.inf).require(1e9)


def test_rows_tell_every_tensor_and_both_agreements():
    rows = dict(report_with(num_generated_equal=3, generated_error=2e-9).rows())
    assert rows["largest difference in prefill/interest"] == "1.0e-07"
    assert rows["generated items that agree"] == "75.00% of 4"
    assert rows["interest error that explains the others"] == "2.0e-09"
    assert rows["top-10 lists that agree"] == "75.00% of 4"


@pytest.mark.parametrize(("num_items", "max_interests"), [(50, 6), (8, 2), (4, 3), (50, 8)])
def test_random_batches_fit_the_model_and_leave_items_to_generate(num_items, max_interests):
    spec = ModelSpec(num_items=num_items, num_users=3, max_length=8, hidden_size=4, num_blocks=1, num_heads=1)
    batches = random_batches(spec, max_interests=max_interests)
    lengths = np.concatenate([tokens.lengths for tokens in batches])
    assert lengths.min() == 1
    assert lengths.max() == 8 - (max_interests - 1)
    for tokens in batches:
        check_tokens(tokens, spec, num_steps=max_interests)
        for excluded in tokens.excluded:
            assert num_items - len(set(excluded) - {0}) >= max_interests
