from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from recgpt.graphs.operators import TRANSLATIONS, leading

BLOCK, NUMBER, WIDTH = 8, 20, 200


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
