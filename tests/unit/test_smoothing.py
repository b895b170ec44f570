from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.utils import parametrize

from recgpt.config import ModelConfig
from recgpt.model.decoder import Decoder
from recgpt.training.smoothing import neighbour_graph, smoothed

# float32 sums in another order.
TOLERANCE = 1e-6


def dense(graph):
    return graph.sums(torch.eye(6))


def sequences(*items):
    return [np.array(row, dtype=np.int64) for row in items]


def make_decoder(*, similarity="cosine", tied=True):
    torch.manual_seed(0)
    config = ModelConfig(max_length=6, hidden_size=8, num_heads=2, ffn_size=16, similarity=similarity, tied=tied)
    return Decoder(config, num_items=5, num_users=1)


def test_neighbours_by_hand_count_less_the_farther_they_are():
    # 1-2 and 2-3 at one position, 1-3 at two; item 4 stands alone, and 5 beside itself only.
    graph = dense(neighbour_graph(sequences([1, 2, 3], [4], [5, 5], []), 5))
    degrees = {1: 1.5, 2: 2.0, 3: 1.5}
    expected = torch.zeros(6, 6)
    for one, other, weight in ((1, 2, 1.0), (2, 3, 1.0), (1, 3, 0.5)):
        expected[one, other] = expected[other, one] = weight / math.sqrt(degrees[one] * degrees[other])
    torch.testing.assert_close(graph, expected, atol=TOLERANCE, rtol=0)


def test_neighbours_are_three_positions_away_at_most_and_add_up():
    graph = dense(neighbour_graph(sequences([1, 2, 3, 4, 5], [1, 2], [2, 1]), 5))
    assert graph[1, 5] == 0
    assert graph[1, 4] > 0
    # 1 is beside 2 three times, at distance 2 of 3 once, at distance 3 of 4 once.
    of_1, of_2 = 3 + 1 / 2 + 1 / 3, 3 + 1 + 1 / 2 + 1 / 3
    assert graph[1, 2].item() == pytest.approx(3 / math.sqrt(of_1 * of_2), abs=TOLERANCE)


def test_sequences_without_neighbours_make_an_empty_graph():
    graph = neighbour_graph(sequences([3], []), 5)
    assert not dense(graph).any()


@pytest.mark.parametrize("similarity", ["cosine", "inner_product"])
def test_vectors_are_smoothed_within_and_stay_so(similarity):
    decoder = make_decoder(similarity=similarity, tied=False)
    graph = neighbour_graph(sequences([1, 2, 3, 2], [4, 1]), 5)
    expected = {}
    for name in ("item_embedding", "output"):
        own = getattr(decoder, name).weight.detach().clone()
        own = functional.normalize(own, dim=1) if similarity == "cosine" else own
        smooth = own + 0.5 * dense(graph) @ own
        expected[name] = functional.normalize(smooth, dim=1) if similarity == "cosine" else smooth
    with smoothed(decoder, graph, 0.5):
        for name, vectors in expected.items():
            torch.testing.assert_close(getattr(decoder, name).vectors, vectors, atol=TOLERANCE, rtol=0)
            rows = torch.tensor([[2, 0, 4]])
            torch.testing.assert_close(getattr(decoder, name)(rows), vectors[rows], atol=TOLERANCE, rtol=0)
    assert not any(map(parametrize.is_parametrized, decoder.modules()))
    assert set(decoder.state_dict()) == set(make_decoder(similarity=similarity, tied=False).state_dict())
    torch.testing.assert_close(decoder.item_matrix, expected["output"], atol=TOLERANCE, rtol=0)
    assert not decoder.item_matrix[0].any()


def test_gradients_reach_neighbours_and_are_those_of_a_dense_product():
    decoder = make_decoder()
    other = copy.deepcopy(decoder)
    graph = neighbour_graph(sequences([1, 2, 3, 2], [4, 1]), 5)
    weights = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    own = other.item_embedding.weight
    unit = functional.normalize(own, dim=1)
    (functional.normalize(unit + 2.0 * dense(graph) @ unit, dim=1) * weights).sum().backward()
    with smoothed(decoder, graph, 2.0):
        (decoder.item_matrix * weights).sum().backward()
        found = decoder.item_embedding.parametrizations.weight.original.grad
    torch.testing.assert_close(found, own.grad, atol=1e-5, rtol=1e-5)
    # One item's own gradient moves what stands beside it.
    with smoothed(decoder, graph, 2.0):
        own = decoder.item_embedding.parametrizations.weight.original
        own.grad = None
        decoder.item_matrix[2].sum().backward()
        assert own.grad[[1, 3]].any(dim=1).all()
        assert not own.grad[5].any()


def test_without_a_graph_nothing_changes():
    decoder = make_decoder()
    before = copy.deepcopy(decoder.state_dict())
    with smoothed(decoder, None, 0.0):
        assert not any(map(parametrize.is_parametrized, decoder.modules()))
    assert all(torch.equal(before[name], value) for name, value in decoder.state_dict().items())
