"""Precisions of an export: size, speed and agreement with PyTorch of each, on one checkpoint.

Exports the checkpoint in every precision of ``export/to_onnx.py --precision`` and times the fused graph of two
interests; writes a JSON with every sample.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from recgpt.backends.eager import EagerBackend, model_spec
from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.bench.environment import describe_environment
from recgpt.bench.interest_contenders import RECOMPUTE, Generate
from recgpt.bench.interest_rows import TYPICAL_HISTORY, Cell, Effort, measure_cell
from recgpt.bench.results import Result, Row
from recgpt.bench.subject import find_subject
from recgpt.bench.tables import show_precision
from recgpt.bench.threads import pin_threads
from recgpt.bundle import Bundle
from recgpt.cli import run_script
from recgpt.errors import CheckpointError
from recgpt.graphs.export import export_bundle, onnx_format
from recgpt.graphs.onnx_writer import Precision
from recgpt.model.checkpoint import Checkpoint

NUM_INTERESTS = 2
METHOD = """\
One export a precision. Each round calls every contender twice in a row, the second call counts, on the same histories,
from numpy arrays to numpy arrays; the first rounds are thrown away. eager, recompute: PyTorch, the reference. floor:
the product [B,D]x[D,V] alone, by each library at hand; ratio_to_floor is to the lowest of their medians. graph_bytes:
all files of graphs of the bundle. identical_items, identical_lists and max_difference compare generated items, top-10
lists and interests with the reference, on the item vectors in float32.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; one entry of ``num_rounds`` a batch size."""

    batch_sizes: tuple[int, ...] = (1, 32, 256)
    num_rounds: tuple[int, ...] = (300, 100, 40)
    num_warmup: int = 5
    num_compared: int = 1024


QUICK = Plan(num_rounds=(40, 8, 2), num_warmup=1, num_compared=64)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def precision(
    bundle: Annotated[Path | None, typer.Option(help="What export/to_onnx.py wrote; else artifacts/bundle.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Its checkpoint; else looked for beside the bundle.")] = None,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/precision.json"),
    threads: Annotated[int, typer.Option(min=1, help="Of each library.")] = 1,
    quick: Annotated[bool, typer.Option(help="Fewer rounds: less than a minute.")] = False,
) -> None:
    """Measures what each precision costs and what it saves."""
    console, environment, plan = Console(), describe_environment(), QUICK if quick else Plan()
    blas_threads = pin_threads(threads)
    loaded = find_subject(bundle, checkpoint, say=console.print).checkpoint
    if loaded is None:
        raise CheckpointError("no checkpoint of this bundle; all is compared with PyTorch: name it with --checkpoint")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bundles = dict(_export(loaded, Path(folder)))
        generators: dict[str, Generate] = {RECOMPUTE: EagerBackend(loaded.decoder, fused=(NUM_INTERESTS,)).interests}
        for name, exported in bundles.items():
            backend = OnnxRuntimeBackend(exported.graphs(), exported.manifest.model, num_threads=threads)
            stack.callback(backend.close)
            generators[name] = backend.interests
        # Drawn between rounds only: a bar that draws itself would do so while something is timed.
        with Progress(console=console, transient=True, auto_refresh=False) as progress:
            rows = tuple(_measure(generators, bundles, loaded, plan, threads, progress))
    threads_of = {"num_threads": threads, "blas_threads": blas_threads}
    method = {
        "title": f"Precisions, {NUM_INTERESTS} interests",
        "text": " ".join(METHOD.split()),
        "parameters": {**asdict(plan), **asdict(model_spec(loaded.decoder)), **threads_of},
    }
    result = Result(name="precision", environment=environment, method=method, rows=rows)
    result.save(out)
    show_precision(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _export(checkpoint: Checkpoint, folder: Path) -> Iterator[tuple[str, Bundle]]:
    for kind in Precision:
        out = folder / kind.value
        export_bundle(checkpoint, out, onnx_format(kind), num_interests=(NUM_INTERESTS,), say=lambda line: None)
        yield kind.value, Bundle.open(out)


def _measure(
    generators: Mapping[str, Generate],
    bundles: Mapping[str, Bundle],
    checkpoint: Checkpoint,
    plan: Plan,
    threads: int,
    progress: Progress,
) -> Iterator[Row]:
    graph_bytes = {
        name: sum(path.stat().st_size for path in bundle.graphs().values()) for name, bundle in bundles.items()
    }
    window = checkpoint.decoder.config.max_length
    for batch, num_rounds in zip(plan.batch_sizes, plan.num_rounds, strict=True):
        effort = Effort(num_rounds=num_rounds, num_warmup=plan.num_warmup, num_compared=plan.num_compared)
        cell = Cell(batch=batch, history=min(TYPICAL_HISTORY, window - 1), num_interests=NUM_INTERESTS)
        task = progress.add_task(f"batch {batch}", total=num_rounds + plan.num_warmup)
        done = partial(progress.update, task, advance=1, refresh=True)
        for row in measure_cell(generators, checkpoint, cell, effort, num_threads=threads, done=done):
            yield replace(row, facts={**row.facts, "graph_bytes": graph_bytes.get(row.name)})


if __name__ == "__main__":
    run_script(app)
