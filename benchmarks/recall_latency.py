"""Latency and throughput of two-step recall: eager PyTorch, the engine, Triton; by stage and batch size.

Measures what was exported last on a Triton server of its own; writes a JSON with every sample, and a plot of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from recgpt.bench.contenders import EAGER, TRITON, Contenders, draw_batches, open_contenders, serve
from recgpt.bench.environment import describe_environment
from recgpt.bench.load import NS_PER_S, lists_alone, served_load
from recgpt.bench.plots import plot_recall_latency
from recgpt.bench.results import Result, Row
from recgpt.bench.subject import find_subject
from recgpt.bench.tables import show_recall_latency
from recgpt.bench.timing import interleave
from recgpt.bundle import Bundle
from recgpt.cli import run_script
from recgpt.recall.core import PretrainedOnlyWarning

QUOTAS = (9, 1)
METHOD = """\
Each round calls every contender twice in a row, the second call counts, on the same requests; the first rounds are
thrown away. eager: PyTorch, all tokens again for each step. engine: ONNX Runtime, laid out as it does by default: one
graph with the search for few requests, the fused graph for more, the index in the loop for many
(recgpt/recall/layout.py). engine, KV cache: ONNX Runtime, prefill and decode. engine, in-graph top-k: one graph with an
exact search and the merge, for every batch. Triton: the fused graph over gRPC on loopback, with the threads its
config.pbtxt names. Where a graph searches, that counts as interests; all else searches the same index in this process.
merge is all that follows the search. Triton's queue and interests are by the server's own statistics, network is the
rest of the round trip. ratio_to_eager: eager's p50 over the row's. identical_lists: share of requests with exactly
eager's items in eager's order. Rows without stages: closed loop of that many clients, one request a call.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; one entry of ``num_rounds`` a batch size."""

    batch_sizes: tuple[int, ...] = (1, 8, 32, 256)
    num_rounds: tuple[int, ...] = (1000, 500, 300, 100)
    num_warmup: int = 10
    num_clients: tuple[int, ...] = (1, 8, 32)
    load_s: float = 5.0


QUICK = Plan(num_rounds=(200, 80, 40, 10), num_warmup=2, load_s=1.0)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def recall_latency(
    bundle: Annotated[Path | None, typer.Option(help="What export/to_onnx.py wrote; else artifacts/bundle.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Its checkpoint; else looked for beside the bundle.")] = None,
    out: Annotated[Path, typer.Option(help="JSON to write; the plot goes beside it.")] = Path(
        "benchmarks/results/recall_latency.json"
    ),
    threads: Annotated[int, typer.Option(min=1, help="Of PyTorch, ONNX Runtime and Faiss in this process.")] = 1,
    quick: Annotated[bool, typer.Option(help="Fewer rounds: less than a minute.")] = False,
) -> None:
    """Measures two-step recall and shows where the time goes."""
    # The harm of two steps on a model that was only pre-trained is to its lists; this is about time.
    warnings.simplefilter("ignore", PretrainedOnlyWarning)
    console = Console()
    environment, plan = describe_environment(), QUICK if quick else Plan()
    subject = find_subject(bundle, checkpoint, say=console.print)
    model = subject.bundle.manifest.model
    parameters = {**asdict(plan), **asdict(model), "quotas": QUOTAS, "num_threads": threads}
    with (
        serve(subject.bundle) as url,
        open_contenders(subject, url, num_interests=len(QUOTAS), num_threads=threads) as contenders,
        # Drawn between rounds only: a bar that draws itself would do so while something is timed.
        Progress(console=console, transient=True, auto_refresh=False) as progress,
    ):
        rows = [
            *_measure_calls(contenders, subject.bundle, plan, progress),
            *_measure_load(contenders, subject.bundle, plan, progress),
        ]
    result = Result(
        name="recall_latency",
        environment=environment,
        method={"title": "Two-step recall of 10 items", "text": " ".join(METHOD.split()), "parameters": parameters},
        rows=tuple(rows),
    )
    result.save(out)
    plot_recall_latency(result, out.with_suffix(".png"))
    show_recall_latency(result, console)
    console.print(f"wrote {out} and {out.with_suffix('.png')}", markup=False, soft_wrap=True)


def _measure_calls(contenders: Contenders, bundle: Bundle, plan: Plan, progress: Progress) -> Iterator[Row]:
    for batch, num_rounds in zip(plan.batch_sizes, plan.num_rounds, strict=True):
        batches = draw_batches(bundle, batch=batch, num_batches=num_rounds, quotas=QUOTAS)
        identical = contenders.identical_lists(batches[: max(plan.batch_sizes) // batch])
        task = progress.add_task(f"batch {batch}", total=num_rounds + plan.num_warmup)
        samples = interleave(
            contenders.cases(batches),
            num_rounds=num_rounds,
            num_warmup=plan.num_warmup,
            done=partial(progress.update, task, advance=1, refresh=True),
        )
        medians = {name: median(sample.total_ns for sample in taken) for name, taken in samples.items()}
        for name, taken in samples.items():
            facts = {
                "batch": batch,
                "clients": 1,
                "throughput": batch * len(taken) / (sum(sample.total_ns for sample in taken) / NS_PER_S),
                "ratio_to_eager": medians[EAGER] / medians[name] if EAGER in medians else None,
                "identical_lists": identical.get(name),
            }
            yield Row.of(name, facts, taken)


def _measure_load(contenders: Contenders, bundle: Bundle, plan: Plan, progress: Progress) -> Iterator[Row]:
    triton = contenders.recallers[TRITON]
    [requests] = draw_batches(bundle, batch=max(plan.batch_sizes), num_batches=1, quotas=QUOTAS)
    eager = contenders.recallers.get(EAGER)
    expected = None if eager is None else lists_alone(eager, requests)
    for num_clients in progress.track(plan.num_clients, description="many clients"):
        yield served_load(
            TRITON,
            triton,
            contenders.account,
            requests,
            num_clients=num_clients,
            duration_s=plan.load_s,
            facts={"ratio_to_eager": None},
            expected=expected,
        )


if __name__ == "__main__":
    run_script(app)
