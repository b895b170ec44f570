"""All benchmarks on a machine with a GPU, and the ways to keep interests on it; says what could not be run, and why.

Writes benchmarks/results/gpu/: gpu.json, a JSON for each other benchmark, and skipped.json.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from recgpt.backends.base import Tokens
from recgpt.bench.environment import describe_environment
from recgpt.bench.gpu import REFERENCE, Find, open_gpu_ways
from recgpt.bench.interest_contenders import draw_tokens
from recgpt.bench.interest_rows import TYPICAL_HISTORY
from recgpt.bench.results import Fact, Result, Row, write_json
from recgpt.bench.subject import build_subject
from recgpt.bench.timing import Case, Sample, interleave
from recgpt.bundle import Bundle
from recgpt.cli import run_script
from recgpt.graphs.export import export_bundle, onnx_format
from recgpt.graphs.onnx_writer import Precision
from recgpt.model.checkpoint import Checkpoint, load_checkpoint

HERE = Path(__file__).parent
NUM_INTERESTS, K = 2, 64
PRECISIONS = (Precision.FLOAT32, Precision.FLOAT16)
# Scripts that take --bundle are given the export in float32, whose every operator CUDA has.
WITH_BUNDLE = ("recall_latency", "interests_latency", "mixed_lengths", "concurrency", "precision")
ALONE = ("kv_cache", "catalogue_growth", "serving_layouts", "serving_load", "peers")
METHOD = """\
Each round calls every way twice in a row, the second call counts, on the same histories, from numpy arrays to the
places that Faiss found; the first rounds are thrown away. Graphs of float32 tables and of float16 tables; products are
in float32 in both, TF32 is off. ratio_to_cpu: the CPU's median over the row's. identical_lists: share of interests for
which the same items are found in the same order as by the CPU.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; one entry of ``num_rounds`` a batch size."""

    batch_sizes: tuple[int, ...] = (1, 32, 256, 1024)
    num_rounds: tuple[int, ...] = (500, 300, 100, 50)
    num_warmup: int = 10


QUICK = Plan(num_rounds=(30, 10, 5, 3), num_warmup=2)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def gpu(
    checkpoint: Annotated[
        Path | None, typer.Option(help="Model to measure; else a small one of random weights.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the JSON files.")] = HERE / "results" / "gpu",
    work: Annotated[Path, typer.Option(help="Folder for exports.")] = Path("artifacts/gpu"),
    quick: Annotated[bool, typer.Option(help="Every benchmark with --quick.")] = False,
) -> None:
    """Measures what can use the GPU, then runs every other benchmark."""
    console, environment, plan = Console(), describe_environment(), QUICK if quick else Plan()
    loaded = _model(checkpoint, work, console)
    bundles = {precision: _export(loaded, work / precision, precision) for precision in PRECISIONS}
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        for precision, bundle in bundles.items():
            with open_gpu_ways(bundle, loaded, num_interests=NUM_INTERESTS, k=K) as (ways, missing):
                skipped |= missing
                rows += _measure(ways, precision, loaded, plan, progress)
    parameters = {**asdict(plan), **asdict(bundles[Precision.FLOAT32].manifest.model)}
    method = {"title": "Interests and search on a GPU", "text": " ".join(METHOD.split()), "parameters": parameters}
    Result(name="gpu", environment=environment, method=method, rows=tuple(rows)).save(out / "gpu.json")
    skipped |= _run_others(bundles[Precision.FLOAT32], out, quick=quick, console=console)
    write_json(out / "skipped.json", skipped)
    for name, reason in skipped.items():
        console.print(f"skipped {name}: {reason}", markup=False, soft_wrap=True)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _model(checkpoint: Path | None, work: Path, console: Console) -> Checkpoint:
    if checkpoint is not None:
        return load_checkpoint(checkpoint)
    path = work / "run" / "ckpt.pt"
    build_subject(work / "built", path, say=console.print)
    return load_checkpoint(path)


def _export(checkpoint: Checkpoint, out: Path, precision: Precision) -> Bundle:
    export_bundle(checkpoint, out, onnx_format(precision), say=lambda line: None)
    return Bundle.open(out)


def _measure(
    ways: Mapping[str, Find], precision: str, checkpoint: Checkpoint, plan: Plan, progress: Progress
) -> Iterator[Row]:
    for batch, num_rounds in zip(plan.batch_sizes, plan.num_rounds, strict=True):
        batches = [
            draw_tokens(checkpoint, batch=batch, length=TYPICAL_HISTORY, seed=seed) for seed in range(num_rounds)
        ]
        cases: dict[str, Case] = {name: partial(_time, find, batches) for name, find in ways.items()}
        found = {name: find(batches[0]) for name, find in ways.items()}
        task = progress.add_task(f"{precision}, batch {batch}", total=num_rounds + plan.num_warmup)
        done = partial(progress.update, task, advance=1, refresh=True)
        samples = interleave(cases, num_rounds=num_rounds, num_warmup=plan.num_warmup, done=done)
        reference = median(sample.total_ns for sample in samples[REFERENCE])
        for name, taken in samples.items():
            facts: dict[str, Fact] = {
                "precision": precision,
                "batch": batch,
                "history": TYPICAL_HISTORY,
                "ratio_to_cpu": reference / median(sample.total_ns for sample in taken),
                "identical_lists": float(np.mean((found[name] == found[REFERENCE]).all(axis=1))),
            }
            yield Row.of(name, facts, taken)


def _time(find: Find, batches: Sequence[Tokens], number: int) -> Sample:
    started = time.perf_counter_ns()
    find(batches[number])
    return Sample(total_ns=time.perf_counter_ns() - started)


def _run_others(bundle: Bundle, out: Path, *, quick: bool, console: Console) -> dict[str, str]:
    """Runs the other scripts; gives why one failed, by its name."""
    failed = {}
    for name in (*WITH_BUNDLE, *ALONE):
        script = HERE / f"{name}.py"
        if not script.is_file():
            continue
        console.print(f"running {script.name}", markup=False)
        command = [sys.executable, str(script), "--out", str(out / f"{name}.json")]
        command += ["--bundle", str(bundle.path)] if name in WITH_BUNDLE else []
        command += ["--quick"] if quick else []
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            failed[name] = (finished.stderr.strip() or finished.stdout.strip()).splitlines()[-1]
    return failed


if __name__ == "__main__":
    run_script(app)
