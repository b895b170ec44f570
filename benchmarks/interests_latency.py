"""Latency of J interests a request: eager PyTorch, TorchScript, torch.compile, ONNX Runtime, and the floor below them.

Measures the model alone, without search, of what was exported last; writes a JSON with every sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from recgpt.bench.environment import describe_environment
from recgpt.bench.interest_contenders import Generators, open_generators
from recgpt.bench.interest_rows import TYPICAL_HISTORY, Cell, Effort, measure_cell, summarise
from recgpt.bench.results import Result, Row
from recgpt.bench.subject import find_subject
from recgpt.bench.tables import show_interests_latency
from recgpt.bench.threads import pin_threads
from recgpt.cli import run_script
from recgpt.errors import CheckpointError
from recgpt.model.checkpoint import Checkpoint

NUM_INTERESTS = (2, 6)
METHOD = """\
Each round calls every contender twice in a row, the second call counts, on the same histories, from numpy arrays to
numpy arrays; the first rounds are thrown away. eager, recompute: PyTorch, the whole sequence again for each step.
eager, cache: the module that is exported, run by PyTorch. TorchScript: the same, traced and frozen. torch.compile: the
same, compiled for any shape. ONNX, stepwise: prefill and decode in ONNX Runtime. ONNX, fused: one graph. floor: the J -
1 products [B,D]x[D,V] alone, by each library at hand; ratio_to_floor is to the lowest of their medians. ratio_to_eager:
eager, recompute's median over the row's. identical_items, identical_lists and max_difference compare generated items,
top-10 lists and interests with eager, recompute.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; one entry of ``num_rounds`` a batch size."""

    batch_sizes: tuple[int, ...] = (1, 32, 256)
    num_rounds: tuple[int, ...] = (300, 100, 40)
    num_warmup: int = 5
    num_compared: int = 256
    is_compiled: bool = True


QUICK = Plan(num_rounds=(40, 8, 2), num_warmup=1, num_compared=64, is_compiled=False)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def interests_latency(
    bundle: Annotated[Path | None, typer.Option(help="What export/to_onnx.py wrote; else artifacts/bundle.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Its checkpoint; else looked for beside the bundle.")] = None,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/interests_latency.json"),
    threads: Annotated[int, typer.Option(min=1, help="Of each library.")] = 1,
    quick: Annotated[bool, typer.Option(help="Fewer rounds, no torch.compile: less than a minute.")] = False,
) -> None:
    """Measures J interests by every way to run the model, and the products that none of them can avoid."""
    console = Console()
    environment, plan = describe_environment(), QUICK if quick else Plan()
    blas_threads = pin_threads(threads)
    subject = find_subject(bundle, checkpoint, say=console.print)
    if subject.checkpoint is None:
        raise CheckpointError("no checkpoint of this bundle; all is compared with PyTorch: name it with --checkpoint")
    model = subject.bundle.manifest.model
    with (
        open_generators(
            subject.bundle, subject.checkpoint, NUM_INTERESTS, num_threads=threads, is_compiled=plan.is_compiled
        ) as generators,
        # Drawn between rounds only: a bar that draws itself would do so while something is timed.
        Progress(console=console, transient=True, auto_refresh=False) as progress,
    ):
        rows = list(_measure(generators, subject.checkpoint, plan, threads, progress))
    method = {
        "title": "Interests, search not included",
        "text": " ".join(METHOD.split()),
        "parameters": {**asdict(plan), **asdict(model), "num_threads": threads, "blas_threads": blas_threads},
        "missing": dict(generators.missing),
        "summary": summarise(rows),
    }
    result = Result(name="interests_latency", environment=environment, method=method, rows=tuple(rows))
    result.save(out)
    show_interests_latency(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _measure(
    generators: Generators, checkpoint: Checkpoint, plan: Plan, threads: int, progress: Progress
) -> Iterator[Row]:
    window = checkpoint.decoder.config.max_length
    for (batch, num_rounds), number in product(zip(plan.batch_sizes, plan.num_rounds, strict=True), NUM_INTERESTS):
        effort = Effort(num_rounds=num_rounds, num_warmup=plan.num_warmup, num_compared=plan.num_compared)
        for history in (TYPICAL_HISTORY, window - (number - 1)):
            cell = Cell(batch=batch, history=history, num_interests=number)
            task = progress.add_task(f"batch {batch}, history {history}, J = {number}", total=num_rounds)
            done = partial(progress.update, task, advance=1, refresh=True)
            yield from measure_cell(generators.by_name, checkpoint, cell, effort, num_threads=threads, done=done)


if __name__ == "__main__":
    run_script(app)
