from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from recgpt.graphs.operators import TRANSLATIONS, leading, scan_leading
from recgpt.recall.scan import RoundedItems

BLOCK, NUMBER, WIDTH = 8, 20, 200

# Columns of the matrix that is scanned: whole blocks of 64, more of them than are found.
NUM_VECTORS, NUM_COLUMNS = 1400, 1408


class Leading(nn.Module):
    def forward(self, scores: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = leading(scores, wanted, BLOCK, NUMBER)
        return found


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    path: Path = tmp_path_factory.mktemp("operators") / "leading.onnx"
    torch.onnx.export(
        Leading(),
        (torch.randn(3, WIDTH), torch.tensor([2])),
        path,
        dynamo=True,
        opset_version=20,
        input_names=["scores", "wanted"],
        output_names=["columns", "values"],
        dynamic_shapes=({0: "B"}, None),
        custom_translation_table=dict(TRANSLATIONS),
        verbose=False,
    )
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wanted", [1, 2, 7, NUMBER])
@pytest.mark.parametrize("batch", [1, 2, 33])
@pytest.mark.parametrize("values", ["all different", "few different", "all equal", "hardly any", "none"])
def test_the_leading_are_the_first_of_a_stable_sort_in_either_form(session, wanted, batch, values):
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((batch, WIDTH)).astype(np.float32)
    if values == "few different":
        scores = scores.round()
    if values == "all equal":
        scores[:] = 1
    if values in ("hardly any", "none"):
        scores[generator.random(scores.shape) < (0.98 if values == "hardly any" else 1)] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
    forms = [
        session.run(None, {"scores": scores, "wanted": np.array([wanted])}),
        [found.numpy() for found in leading(torch.from_numpy(scores), torch.tensor([wanted]), BLOCK, NUMBER)],
    ]
    for columns, found in forms:
        np.testing.assert_array_equal(columns[:, :wanted], expected)
        np.testing.assert_array_equal(found[:, :wanted], np.take_along_axis(scores, expected, axis=1))
        assert not columns[:, wanted:].any()
        assert np.isneginf(found[:, wanted:]).all()


class ScanLeading(nn.Module):
    def __init__(self, vectors: np.ndarray) -> None:
        super().__init__()
        items = RoundedItems.of(vectors, NUM_COLUMNS)
        self.rounding = items.rounding
        self.register_buffer("vectors", torch.from_numpy(vectors))
        self.register_buffer("matrix", torch.from_numpy(items.matrix))

    def forward(self, queries: Tensor, excluded: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = scan_leading(
            queries, self.vectors, self.matrix, excluded, wanted, *self.rounding, NUMBER
        )
        return found


def make_vectors(kind: str) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((NUM_VECTORS, 24)).astype(np.float32)
    if kind == "twins":
        vectors = vectors[np.random.default_rng(1).integers(0, 30, NUM_VECTORS)]
    if kind == "one is long":
        vectors[7] *= 1000
    return vectors


@pytest.fixture(scope="module", params=["usual", "twins", "one is long"])
def scan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    module = ScanLeading(make_vectors(request.param))
    path: Path = tmp_path_factory.mktemp("operators") / "scan.onnx"
    torch.onnx.export(
        module,
        (torch.randn(3, 24), torch.zeros((3, 2), dtype=torch.int64), torch.tensor([2])),
        path,
        dynamo=True,
        opset_version=20,
        input_names=["queries", "excluded", "wanted"],
        output_names=["columns", "values", "is_whole"],
        dynamic_shapes=({0: "B"}, {0: "B", 1: "E"}, None),
        custom_translation_table=dict(TRANSLATIONS),
        verbose=False,
    )
    return module, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wanted", [1, 2, NUMBER])
@pytest.mark.parametrize("batch", [1, 33])
@pytest.mark.parametrize("num_excluded", [0, 300, NUM_VECTORS - 5])
def test_a_scan_finds_in_onnx_what_all_scores_find_in_pytorch(scan, wanted, batch, num_excluded):
    module, session = scan
    generator = np.random.default_rng(batch)
    queries = generator.standard_normal((batch, 24)).astype(np.float32)
    queries *= np.logspace(-3, 3, batch, dtype=np.float32)[:, None]
    queries[-1] = 0  # all scores are equal
    nothing = np.tile(np.arange(NUM_VECTORS, NUM_COLUMNS), (batch, 1))
    listed = [generator.permutation(NUM_VECTORS)[:num_excluded] for _ in range(batch)]
    excluded = np.concatenate([nothing, listed], axis=1).astype(np.int64)
    feeds = {"queries": queries, "excluded": excluded, "wanted": np.array([wanted])}
    columns, values, is_whole = session.run(None, feeds)
    # In float64, so that the order of equals is not a matter of rounding.
    exact = ScanLeading(module.vectors.numpy()).double()
    inputs = (torch.from_numpy(queries).double(), torch.from_numpy(excluded), torch.tensor([wanted]))
    expected, scores, _ = (found.numpy() for found in exact(*inputs))
    assert is_whole
    found = np.isfinite(scores)
    np.testing.assert_array_equal(np.isfinite(values), found)
    np.testing.assert_array_equal(columns[found], expected[found])
    assert not columns[:, wanted:].any()
    np.testing.assert_allclose(values[found], scores[found], rtol=1e-5, atol=1e-3)
