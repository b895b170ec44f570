"""What an ensemble costs when it recalls: the engine in process on its export, in turn with that of a single model."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from recgpt.bench.contenders import Batch, draw_batches
from recgpt.bench.stages import time_recall
from recgpt.bench.timing import NS_PER_MS, Case, interleave
from recgpt.bundle import Bundle
from recgpt.engine import Engine
from recgpt.graphs.export import ONNX, export_bundle
from recgpt.model.checkpoint import Checkpoint

# Requests a call, and how many calls of each are measured.
ROUNDS: Mapping[int, int] = {1: 500, 32: 60}
NUM_WARMUP = 10


def measure_costs(models: Sequence[Checkpoint], *, k: int) -> list[dict[str, Any]]:
    """Exports each model, which checks it against PyTorch, and times recalls of k items in one step on one thread.

    Args:
        models: the first is what the others are compared with.
        k: items to recall.

    Returns:
        Of each model ``hidden_size``, ``bundle_bytes``, and by requests a call ``p50_ms`` and ``times_first``: medians
        over interleaved rounds, and their ratios to the first model's.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bundles = [_export(model, Path(folder) / str(place)) for place, model in enumerate(models)]
        engines = [stack.enter_context(Engine.load(bundle.path, num_threads=1)) for bundle in bundles]
        found: list[dict[str, Any]] = [_sizes(bundle) | {"p50_ms": {}, "times_first": {}} for bundle in bundles]
        for batch, num_rounds in ROUNDS.items():
            batches = draw_batches(bundles[0], batch=batch, num_batches=num_rounds, quotas=(k,))
            cases = {str(place): _case(engine, batches) for place, engine in enumerate(engines)}
            samples = interleave(cases, num_rounds=num_rounds, num_warmup=NUM_WARMUP)
            medians = [statistics.median(sample.total_ns for sample in taken) for taken in samples.values()]
            for cost, p50 in zip(found, medians, strict=True):
                cost["p50_ms"][str(batch)] = p50 / NS_PER_MS
                cost["times_first"][str(batch)] = p50 / medians[0]
        return found


def _sizes(bundle: Bundle) -> dict[str, int]:
    num_bytes = sum(path.stat().st_size for path in bundle.path.iterdir())
    return {"hidden_size": bundle.manifest.model.hidden_size, "bundle_bytes": num_bytes}


def _export(model: Checkpoint, folder: Path) -> Bundle:
    export_bundle(model, folder, ONNX, num_interests=(1,), say=lambda line: None)
    return Bundle.open(folder)


def _case(engine: Engine, batches: Sequence[Batch]) -> Case:
    return lambda number: time_recall(engine, batches[number])
