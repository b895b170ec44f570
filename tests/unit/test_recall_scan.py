"""Graphs that recall by a scan in 8 bits, and when the backend takes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from recgpt.backends.base import Tokens
from recgpt.backends.eager import EagerBackend, model_spec
from recgpt.backends.graph_backend import MIN_SCANNED
from recgpt.backends.lengths import RunCost
from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.config import ModelConfig
from recgpt.graphs.modules import Decode, Prefill
from recgpt.graphs.onnx_writer import write_onnx
from recgpt.graphs.recall import Graph, Recall, ScannedRecall
from recgpt.model.decoder import Decoder
from recgpt.recall.scan import BLOCK, most_scanned
from recgpt.signature import IS_WHOLE

# A whole number of blocks with the padding, and just enough for lists of four.
NUM_ITEMS = 2047 + BLOCK
K = most_scanned(NUM_ITEMS)


def make_decoder() -> Decoder:
    """As vectors come out of a training: around some centres, and of unit length."""
    torch.manual_seed(0)
    config = ModelConfig(max_length=24, hidden_size=32, num_heads=2, ffn_size=16)
    decoder = Decoder(config, num_items=NUM_ITEMS, num_users=1).eval()
    centres = torch.randn(40, 32)[torch.randint(40, (NUM_ITEMS,))]
    with torch.no_grad():
        vectors = centres + 0.5 * torch.randn(NUM_ITEMS, 32)
        decoder.item_embedding.weight[1:] = vectors / vectors.norm(dim=1, keepdim=True)
    return decoder


def write(folder: Path, *graphs: Graph) -> dict[str, Path]:
    files = {graph.spec.name: folder / f"{graph.spec.name}.onnx" for graph in graphs}
    for graph in graphs:
        write_onnx(graph, files[graph.spec.name], metadata={})
    return files


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return make_decoder()


@pytest.fixture(scope="module")
def files(decoder: Decoder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    graphs: list[Graph] = [Prefill(decoder), Decode(decoder), Recall(decoder, 2), ScannedRecall(decoder, 2)]
    return write(tmp_path_factory.mktemp("graphs"), *graphs)


class Counting(OnnxRuntimeBackend):
    """Remembers which graphs were run."""

    def _run(self, graph, feeds):
        outputs = super()._run(graph, feeds)
        self.__dict__.setdefault("ran", []).append((graph.name, outputs.get(IS_WHOLE)))
        return outputs


@pytest.fixture
def backend(decoder: Decoder, files: dict[str, Path]) -> Iterator[Counting]:
    with closing(Counting(files, model_spec(decoder), num_threads=1)) as made:
        made.ran = []
        yield made


def histories(batch: int, *, num_excluded: int = 3) -> Tokens:
    generator = np.random.default_rng(batch)
    lengths = generator.integers(1, 8, batch)
    rows = generator.integers(1, NUM_ITEMS + 1, (batch, 7)) * (np.arange(7) < lengths[:, None])
    return Tokens(
        user_rows=np.zeros(batch, dtype=np.int64),
        item_rows=rows,
        segments=np.zeros_like(rows),
        lengths=lengths,
        excluded=generator.integers(0, NUM_ITEMS + 1, (batch, num_excluded)),
    )


def names(backend: Counting) -> set[str]:
    return {name for name, _ in backend.ran}


@pytest.mark.parametrize("batch", [MIN_SCANNED, 40])
@pytest.mark.parametrize("quotas", [(K - 1, 1), (1, 1), (0, K)], ids=str)
def test_a_scan_finds_what_scores_of_all_items_find(
    decoder: Decoder, backend: Counting, batch: int, quotas: tuple[int, int]
) -> None:
    tokens, asked = histories(batch), np.tile(quotas, (batch, 1))
    asked[0] = (1, 0)
    found = backend.recall(tokens, asked)
    assert names(backend) == {"recall_scan_2"}
    assert all(is_whole.all() for _, is_whole in backend.ran)
    expected = EagerBackend(decoder, fused=(), recalls=(2,)).recall(tokens, asked).first(sum(quotas))
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.steps, expected.steps)
    np.testing.assert_array_equal(found.generated_rows, expected.generated_rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize(("batch", "k"), [(MIN_SCANNED - 1, K), (MIN_SCANNED, K + 1)], ids=["few", "long lists"])
def test_few_requests_and_long_lists_are_not_scanned_for(backend: Counting, batch: int, k: int) -> None:
    backend.recall(histories(batch), np.tile((k - 1, 1), (batch, 1)))
    assert names(backend) == {"recall_2"}


def test_lists_of_a_batch_in_parts_may_be_short_in_one_and_long_in_the_other(
    decoder: Decoder, backend: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backend._recall_costs, 2, RunCost(call_ns=0.0, token_ns=1.0))  # cut wherever it can be
    generator, is_short = np.random.default_rng(0), np.arange(2 * MIN_SCANNED) < MIN_SCANNED
    lengths = np.where(is_short, 3, 20)
    rows = generator.integers(1, NUM_ITEMS + 1, (len(lengths), 20)) * (np.arange(20) < lengths[:, None])
    none = np.zeros((len(lengths), 1), dtype=np.int64)
    tokens = Tokens(user_rows=none[:, 0], item_rows=rows, segments=np.zeros_like(rows), lengths=lengths, excluded=none)
    quotas = np.where(is_short[:, None], [[K - 1, 1]], [[60, 10]])
    found = backend.recall(tokens, quotas)
    assert names(backend) == {"recall_scan_2", "recall_2"}
    expected = EagerBackend(decoder, fused=(), recalls=(2,)).recall(tokens, quotas)
    np.testing.assert_array_equal(found.rows, expected.rows[:, :70])
    np.testing.assert_array_equal(found.steps, expected.steps[:, :70])


def test_all_but_a_few_items_may_be_excluded(backend: Counting) -> None:
    tokens = histories(MIN_SCANNED)
    tokens.excluded[:] = 0
    left = [3, 700, 1500]
    wide = np.tile(np.setdiff1d(np.arange(1, NUM_ITEMS + 1), left), (MIN_SCANNED, 1))
    wide[1] = 0
    found = backend.recall(Tokens(**{**vars(tokens), "excluded": wide}), np.tile((2, 2), (MIN_SCANNED, 1)))
    assert names(backend) == {"recall_scan_2"}
    for request in (0, 2, MIN_SCANNED - 1):
        assert sorted(found.rows[request, :3].tolist()) == left
        assert found.rows[request, 3] == found.steps[request, 3] == found.scores[request, 3] == 0
    assert (found.rows[1] > 0).all()


def test_where_too_much_is_left_in_doubt_all_scores_are_computed(
    decoder: Decoder, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recgpt.recall.scan._MAX_PAIRS", 20)
    less = files | write(tmp_path, ScannedRecall(decoder, 2))
    with closing(Counting(less, model_spec(decoder), num_threads=1)) as backend:
        tokens, asked = histories(30), np.tile((K - 1, 1), (30, 1))
        backend.ran = []
        found = backend.recall(tokens, asked)
        assert names(backend) == {"recall_scan_2", "recall_2"}
        assert not any(is_whole.any() for name, is_whole in backend.ran if name == "recall_scan_2")
    expected = EagerBackend(decoder, fused=(), recalls=(2,)).recall(tokens, asked).first(K)
    np.testing.assert_array_equal(found.rows, expected.rows)
