"""One small model, exported once a session by the command itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_model import Export, random_checkpoint

from recgpt.engine import Engine
from recgpt.model.checkpoint import save_checkpoint

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("export")
    checkpoint, file = random_checkpoint(), folder / "ckpt.pt"
    save_checkpoint(file, checkpoint)
    bundle, repository = folder / "bundle", folder / "triton_models"
    command = [sys.executable, "export/to_onnx.py", str(file), "--out", str(bundle)]
    command += ["--model-repository", str(repository)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return Export(checkpoint, file, bundle, repository, result.stdout)


@pytest.fixture(scope="session")
def engine(export: Export) -> Iterator[Engine]:
    with Engine.load(export.bundle, num_threads=1) as engine:
        yield engine
