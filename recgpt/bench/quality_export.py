"""Quality after export: the lists of the ONNX engine in every precision, held against PyTorch's."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recgpt.data.split import Split
from recgpt.eager import eager_recaller
from recgpt.engine import Engine
from recgpt.evaluation import UserLists, evaluate_lists, summarise
from recgpt.graphs.export import export_bundle, onnx_format
from recgpt.graphs.onnx_writer import Precision
from recgpt.model.checkpoint import Checkpoint

Quotas = tuple[int, ...]


def measure_exported(
    checkpoint: Checkpoint, split: Split, quotas: Sequence[Quotas], precisions: Sequence[Precision] = tuple(Precision)
) -> dict[str, dict[str, Any]]:
    """Exports a checkpoint and evaluates the engine on the test split, ids, index and merge included.

    Args:
        checkpoint: the model.
        split: in the checkpoint's rows.
        quotas: each is one row.
        precisions: each is one export.

    Returns:
        By precision: ``graph_bytes`` of all files of graphs, and by quotas, as in ``9,1``, the metrics and
        ``identical_lists``, the share of users whose list is PyTorch's, order included.
    """
    recaller = eager_recaller(checkpoint)
    expected = {row: evaluate_lists(recaller, split, quotas=row) for row in quotas}
    return {precision.value: _measure(checkpoint, split, precision, expected) for precision in precisions}


def _measure(
    checkpoint: Checkpoint, split: Split, precision: Precision, expected: Mapping[Quotas, UserLists]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        num_interests = sorted({len(row) for row in expected})
        export_bundle(checkpoint, bundle, onnx_format(precision), num_interests=num_interests, say=lambda line: None)
        found: dict[str, Any] = {"graph_bytes": sum(path.stat().st_size for path in bundle.glob("*.onnx"))}
        with Engine.load(bundle) as engine:
            for row, reference in expected.items():
                lists = evaluate_lists(engine, split, quotas=row)
                identical = float(np.mean((lists.item_rows == reference.item_rows).all(axis=1)))
                found[",".join(map(str, row))] = {**summarise(lists.ranks), "identical_lists": identical}
        return found
