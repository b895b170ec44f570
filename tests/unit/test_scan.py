from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from recgpt.config import ModelConfig
from recgpt.graphs.modules import SCORE_BLOCK, Interests, NextItem
from recgpt.graphs.onnx_writer import Precision, write_onnx
from recgpt.graphs.scan import ScannedNextItem
from recgpt.graphs.tracing import export_copy
from recgpt.model.decoder import Decoder
from recgpt.signature import PREFILL

WIDTH = 16


def make_decoder(num_items, *, tied=True):
    torch.manual_seed(0)
    config = ModelConfig(max_length=4, hidden_size=WIDTH, num_heads=2, ffn_size=16, tied=tied)
    decoder = Decoder(config, num_items=num_items, num_users=1).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder


def make_next_item(decoder, kind):
    """As it stands in an exported graph."""
    return export_copy(Interests(decoder, 2), kind).next_item


def best_by_hand(decoder, interest, excluded):
    scores = interest.double().numpy() @ decoder.item_matrix.detach().double().numpy().T
    scores[:, 0] = -np.inf
    np.put_along_axis(scores, excluded.numpy(), -np.inf, axis=1)
    return scores.argmax(axis=1)


@pytest.mark.parametrize("kind", [NextItem, ScannedNextItem])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_items", [1, 20, SCORE_BLOCK - 1, SCORE_BLOCK, 3000])
@torch.no_grad()
def test_the_item_is_the_one_with_the_highest_score_that_is_not_excluded(kind, tied, num_items):
    decoder = make_decoder(num_items, tied=tied)
    generator = torch.Generator().manual_seed(1)
    # Of very different lengths, and some straight towards one item.
    interest = torch.randn(400, WIDTH, generator=generator) * torch.logspace(-4, 4, 400).unsqueeze(1)
    interest[:100] = decoder.item_matrix[torch.randint(1, num_items + 1, (100,), generator=generator)]
    num_excluded = min(9, num_items - 1) or 1
    excluded = torch.randint(0, num_items + 1, (400, num_excluded), generator=generator)
    if num_items == 1:
        excluded.zero_()
    found = make_next_item(decoder, kind)(interest, excluded)
    assert (found.shape, found.dtype) == ((400, 1), torch.int64)
    np.testing.assert_array_equal(found[:, 0].numpy(), best_by_hand(decoder, interest, excluded))


@pytest.mark.parametrize("precision", Precision)
@torch.no_grad()
def test_the_lowest_of_more_twins_than_candidates_wins(tmp_path, precision):
    # In ONNX, whose TopK takes the lower of equals; PyTorch's takes any.
    decoder = make_decoder(500, tied=False)
    decoder.final_norm.weight.zero_()
    decoder.final_norm.bias.fill_(1.0)
    twins = np.arange(3, 500, 7)
    decoder.output.weight[twins] = 2.0
    write_onnx(Interests(decoder, 2), tmp_path / "interests_2.onnx", metadata={}, precision=precision)
    session = onnxruntime.InferenceSession(tmp_path / "interests_2.onnx", providers=["CPUExecutionProvider"])
    one = np.ones((1, 1), dtype=np.int64)
    for number in (0, 1, 40):
        excluded = np.array([[0, *twins[:number]]])
        arrays = (one, one, one, one, excluded)
        feeds = {tensor.name: array for tensor, array in zip(PREFILL.inputs, arrays, strict=True)}
        _, generated = session.run(None, feeds)
        assert generated.item() == twins[number]
