"""Ties in the graph that recalls: equal vectors, wherever they stand, get equal scores and come in row order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from recgpt.config import ModelConfig
from recgpt.graphs.onnx_writer import write_onnx
from recgpt.graphs.recall import Recall
from recgpt.model.decoder import Decoder
from recgpt.signature import recall_spec

# Neither is a whole number of a processor's vectors, nor of blocks, so that the last columns are computed apart.
NUM_ITEMS, WIDTH, K = 2003, 50, 20


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    """Seven vectors, dealt out over the catalogue by chance."""
    torch.manual_seed(0)
    config = ModelConfig(max_length=6, hidden_size=WIDTH, num_blocks=1, num_heads=2, ffn_size=8)
    decoder = Decoder(config, num_items=NUM_ITEMS, num_users=1)
    with torch.no_grad():
        decoder.item_embedding.weight.copy_(torch.randn(7, WIDTH)[kinds()])
    path: Path = tmp_path_factory.mktemp("graph") / "recall_2.onnx"
    write_onnx(Recall(decoder.eval(), 2, max_recalled=K), path, metadata={})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def kinds() -> torch.Tensor:
    """Which of the seven vectors each row has."""
    return torch.randint(0, 7, (NUM_ITEMS + 1,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("batch", [1, 2, 5, 33])
def test_equal_vectors_come_in_the_order_of_their_rows_and_the_generated_item_is_the_first(
    session: onnxruntime.InferenceSession, batch: int
) -> None:
    generator = np.random.default_rng(batch)
    items = generator.integers(1, NUM_ITEMS + 1, (batch, 4))
    quotas = np.tile([12, 8], (batch, 1))
    ones = np.ones((batch, 1), dtype=np.int64)
    feeds = [ones, items, items % 2, 4 * ones, items, quotas]
    named = {tensor.name: array for tensor, array in zip(recall_spec(2).inputs, feeds, strict=True)}
    rows, scores, _, generated = session.run(None, named)
    kind = kinds().numpy()
    np.testing.assert_array_equal(generated[:, 0], rows[:, 0])
    for request in range(batch):
        free = [row for row in range(1, NUM_ITEMS + 1) if row not in items[request]]
        taken: set[int] = set()
        for start, stop in ((0, 12), (12, 20)):
            first = int(rows[request, start])
            # More rows have one vector than a list has places, so all of a list have the vector of its first.
            expected = [row for row in free if kind[row] == kind[first] and row not in taken][: stop - start]
            assert rows[request, start:stop].tolist() == expected
            assert len(set(scores[request, start:stop].tolist())) == 1
            taken |= set(expected)
