"""An ensemble goes the way of every checkpoint: exported, checked, and recalled from as PyTorch does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from recgpt.eager import eager_recaller
from recgpt.engine import Engine
from recgpt.model.checkpoint import load_checkpoint, save_checkpoint
from tests.tiny_model import random_checkpoint, random_requests

CHECKOUT = Path(__file__).resolve().parents[2]

# Float32 sums in another order.
TOLERANCE = 1e-5


def test_an_ensemble_is_exported_and_recalls_what_pytorch_recalls(tmp_path: Path) -> None:
    files = [tmp_path / f"seed_{seed}.pt" for seed in range(3)]
    for seed, file in enumerate(files):
        save_checkpoint(file, random_checkpoint(seed))
    together, bundle = tmp_path / "ensemble.pt", tmp_path / "bundle"
    put_together = [Path(sys.executable).with_name("recgpt"), "ensemble", *files, "--out", together]
    export = [sys.executable, "export/to_onnx.py", together, "--out", bundle, "--model-repository", tmp_path / "models"]
    for command in (put_together, export):
        done = subprocess.run(
            [str(part) for part in command], cwd=CHECKOUT, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "An ensemble of 3 models" in (bundle / "MODEL_CARD.md").read_text()
    requests = random_requests(40)
    reference = eager_recaller(load_checkpoint(together)).recall_many(requests)
    with Engine.load(bundle, num_threads=1) as engine:
        found = engine.recall_many(requests)
    for ours, theirs in zip(found, reference, strict=True):
        assert (ours.item_ids, ours.generated_ids) == (theirs.item_ids, theirs.generated_ids)
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=TOLERANCE, atol=TOLERANCE)
