"""Quality after export: the lists of the ONNX engine, held against PyTorch's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recgpt.data.split import Split
from recgpt.engine import Engine
from recgpt.evaluation import evaluate
from recgpt.graphs.export import ONNX, export_bundle
from recgpt.model.checkpoint import Checkpoint


def measure_exported(
    checkpoint: Checkpoint, split: Split, quotas: Sequence[tuple[int, ...]]
) -> dict[str, dict[str, Any]]:
    """Exports a checkpoint and evaluates the engine on the test split, ids, index and merge included.

    Args:
        checkpoint: the model.
        split: in the checkpoint's rows.
        quotas: each is one row.

    Returns:
        By quotas, as in ``9,1``: the metrics.
    """
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        num_interests = sorted({len(row) for row in quotas})
        export_bundle(checkpoint, bundle, ONNX, num_interests=num_interests, say=lambda line: None)
        with Engine.load(bundle) as engine:
            return {",".join(map(str, row)): evaluate(engine, split, quotas=row) for row in quotas}
