"""The cached ways through the decoder against the one that recomputes everything."""

from __future__ import annotations

import itertools

import pytest
import torch

from recgpt.config import POSITIONS, SIMILARITIES, ModelConfig
from recgpt.model.decoder import Decoder
from recgpt.model.item_table import ItemTable

# Float32 sums in another order.
TOLERANCE = 1e-5
LENGTHS = (5, 2, 4)
NUM_NEW = 3


@pytest.fixture(params=itertools.product(POSITIONS, SIMILARITIES), ids="-".join)
def decoder(request):
    position, similarity = request.param
    torch.manual_seed(0)
    config = ModelConfig(
        max_length=12, hidden_size=8, num_blocks=2, num_heads=2, ffn_size=16, position=position, similarity=similarity
    )
    made = Decoder(config, num_items=40, num_users=4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made.eval()


@pytest.fixture
def sequences():
    """Whole sequences: a history of some length and NUM_NEW tokens behind it."""
    torch.manual_seed(1)
    return [torch.randint(1, 41, (length + NUM_NEW,)) for length in LENGTHS]


def recompute(decoder, user_row, items):
    segments = torch.arange(len(items)) % 2
    with torch.no_grad():
        return decoder(torch.tensor([user_row]), items[None], segments[None])[0]


def test_prefill_and_extend_on_padded_rows_equal_the_recomputed_interests(decoder, sequences):
    users, lengths = torch.tensor([1, 0, 3]), torch.tensor(LENGTHS)
    rows = torch.zeros((len(LENGTHS), max(LENGTHS) + 2), dtype=torch.int64)
    for row, (items, length) in enumerate(zip(sequences, LENGTHS, strict=True)):
        rows[row, :length] = items[:length]
    segments = torch.arange(rows.shape[1]).expand_as(rows) % 2
    positions = lengths.unsqueeze(1) + torch.arange(NUM_NEW)
    new_rows = torch.stack([items[length:] for items, length in zip(sequences, LENGTHS, strict=True)])
    with torch.no_grad():
        first, past = decoder.prefill(users, rows, segments, lengths)
        real = torch.arange(rows.shape[1]) < lengths.unsqueeze(1)
        last, _ = decoder.extend(users, new_rows, positions % 2, positions, past, real)
    for row, (items, length) in enumerate(zip(sequences, LENGTHS, strict=True)):
        expected = recompute(decoder, int(users[row]), items)
        torch.testing.assert_close(first[row], expected[length - 1], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(last[row], expected[-1], rtol=0, atol=TOLERANCE)


def test_the_order_of_the_history_matters(decoder, sequences):
    items = sequences[0]
    swapped = items[[1, 0, *range(2, len(items))]]
    assert (recompute(decoder, 1, items)[-1] - recompute(decoder, 1, swapped)[-1]).abs().max() > 100 * TOLERANCE


def test_no_token_sees_a_later_one(decoder, sequences):
    items = sequences[0]
    changed = items.clone()
    changed[-1] = changed[-1] % 40 + 1
    torch.testing.assert_close(
        recompute(decoder, 1, items)[:-1], recompute(decoder, 1, changed)[:-1], rtol=0, atol=TOLERANCE
    )


def test_vectors_of_a_unit_table_have_length_1_and_a_plain_table_holds_the_same():
    torch.manual_seed(0)
    table = ItemTable(40, 8, unit=True)
    directions = table.weight[1:] / table.weight[1:].norm(dim=1, keepdim=True)
    torch.testing.assert_close(table.vectors[1:], directions, rtol=0, atol=TOLERANCE)
    assert not table.vectors[0].any()
    plain = table.plain()
    assert torch.equal(plain.weight, plain.vectors)
    assert torch.equal(plain.vectors, table.vectors)


@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_made_plain_gives_the_same_interests(sequences, tied):
    torch.manual_seed(0)
    config = ModelConfig(max_length=12, hidden_size=8, similarity="cosine", tied=tied)
    made = Decoder(config, num_items=40, num_users=4).eval()
    expected, matrix = recompute(made, 1, sequences[0]), made.item_matrix
    made.make_plain()
    assert torch.equal(recompute(made, 1, sequences[0]), expected)
    assert torch.equal(made.item_matrix, matrix)


def test_interests_of_cosine_similarity_are_unit_vectors(sequences):
    torch.manual_seed(0)
    made = Decoder(ModelConfig(max_length=12, hidden_size=8, similarity="cosine"), num_items=40, num_users=4).eval()
    torch.testing.assert_close(recompute(made, 1, sequences[0]).norm(dim=1), torch.ones(len(sequences[0])))
