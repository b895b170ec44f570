"""Recall by a server laid out in three ways, against each other, the engine in process, and models that do nothing.

Measures what was exported last on a Triton server of its own; writes a JSON with every sample.
"""

from __future__ import annotations

import time
import warnings
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

from recgpt.bench.contenders import Batch, draw_batches
from recgpt.bench.environment import describe_environment
from recgpt.bench.layouts import EMPTY_PYTHON, IN_PROCESS, Layout, open_layouts
from recgpt.bench.load import Lists, lists_alone, run_load, served_load
from recgpt.bench.results import Fact, Result, Row
from recgpt.bench.subject import find_subject
from recgpt.bench.tables import show_serving_layouts
from recgpt.bench.timing import Case, Sample, interleave
from recgpt.cli import run_script
from recgpt.recall.core import PretrainedOnlyWarning

NS_PER_S = 1e9
QUOTAS = (9, 1)
METHOD = """\
One request a call throughout. calls: each round calls every layout twice in a row, the second call counts, on the same
request; the first rounds are thrown away. load: a closed loop of that many clients in this process, each sending its
next request when it has its answer. engine, in process: ONNX Runtime and Faiss here, no server. recall graph, in
process: interests, exact top-k and merge in one graph, here. index in the client: interests from Triton, search and
merge here. recall graph: that one graph on Triton. recall_engine: engine and index in Triton's Python backend. empty: a
model that gives back 16 numbers, in the ONNX Runtime backend and in the Python backend. Client and server share the
machine. identical_lists: share of requests with exactly the items of the engine in process, in its order. overhead_ms:
p50 less that of the engine in process with as many clients. ratio_to_empty: p50 over that of the empty Python model
with as many clients. The server is a stand-in with a process of Python for each model; NVIDIA's own runs ONNX graphs in
its own process.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    num_rounds: int = 1000
    num_warmup: int = 20
    num_compared: int = 256
    num_clients: tuple[int, ...] = (1, 8, 32)
    load_s: float = 5.0


QUICK = Plan(num_rounds=100, num_warmup=5, num_compared=64, load_s=0.5)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serving_layouts(
    bundle: Annotated[Path | None, typer.Option(help="What export/to_onnx.py wrote; else artifacts/bundle.")] = None,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/serving_layouts.json"),
    threads: Annotated[int, typer.Option(min=1, help="Of ONNX Runtime and Faiss in this process.")] = 1,
    quick: Annotated[bool, typer.Option(help="Fewer rounds: less than a minute.")] = False,
) -> None:
    """Measures two-step recall over a server, layout by layout."""
    # The harm of two steps on a model that was only pre-trained is to its lists; this is about time.
    warnings.simplefilter("ignore", PretrainedOnlyWarning)
    console = Console()
    environment, plan = describe_environment(), QUICK if quick else Plan()
    opened = find_subject(bundle, None, say=console.print).bundle
    batches = draw_batches(opened, batch=1, num_batches=max(plan.num_rounds, plan.num_compared), quotas=QUOTAS)
    parameters = {**asdict(plan), **asdict(opened.manifest.model), "quotas": QUOTAS, "num_threads": threads}
    with (
        open_layouts(opened, num_interests=len(QUOTAS), num_threads=threads) as layouts,
        # Drawn between rounds only: a bar that draws itself would do so while something is timed.
        Progress(console=console, transient=True, auto_refresh=False) as progress,
    ):
        requests = [request for [request] in batches]
        expected = lists_alone(layouts[IN_PROCESS].recaller, requests)
        agreement = _agreement(layouts, requests[: plan.num_compared], expected[: plan.num_compared])
        rows = [
            *_measure_calls(layouts, batches, agreement, plan, progress),
            *_measure_load(layouts, batches, expected, plan, progress),
        ]
    result = Result(
        name="serving_layouts",
        environment=environment,
        method={"title": "Recall over a server", "text": " ".join(METHOD.split()), "parameters": parameters},
        rows=tuple(_with_ratios(rows)),
    )
    result.save(out)
    show_serving_layouts(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _agreement(layouts: Mapping[str, Layout], requests: Batch, expected: Lists) -> dict[str, Fact]:
    """Share of requests for which each layout gives the engine's list; None of those that recall nothing."""
    agreement: dict[str, Fact] = {}
    for name, layout in layouts.items():
        if layout.recalls:
            pairs = zip(lists_alone(layout.recaller, requests), expected, strict=True)
            agreement[name] = float(np.mean([found == items for found, items in pairs]))
    return agreement


def _measure_calls(
    layouts: Mapping[str, Layout],
    batches: Sequence[Batch],
    agreement: Mapping[str, Fact],
    plan: Plan,
    progress: Progress,
) -> Iterator[Row]:
    task = progress.add_task("calls", total=plan.num_rounds + plan.num_warmup)
    samples = interleave(
        {name: _case(layout, batches) for name, layout in layouts.items()},
        num_rounds=plan.num_rounds,
        num_warmup=plan.num_warmup,
        done=partial(progress.update, task, advance=1, refresh=True),
    )
    for name, taken in samples.items():
        throughput = len(taken) / (sum(sample.total_ns for sample in taken) / NS_PER_S)
        facts: dict[str, Fact] = {"mode": "calls", "batch": 1, "clients": 1, "throughput": throughput}
        yield Row.of(name, {**facts, "identical_lists": agreement.get(name)}, taken)


def _case(layout: Layout, batches: Sequence[Batch]) -> Case:
    def call(number: int) -> Sample:
        started = time.perf_counter_ns()
        layout.recaller.recall_many(batches[number])
        return Sample(total_ns=time.perf_counter_ns() - started)

    return call


def _measure_load(
    layouts: Mapping[str, Layout],
    batches: Sequence[Batch],
    engines: Lists,
    plan: Plan,
    progress: Progress,
) -> Iterator[Row]:
    requests = [request for batch in batches for request in batch]
    settings = [(number, name) for number in plan.num_clients for name in layouts]
    for num_clients, name in progress.track(settings, description="many clients"):
        recaller, account = layouts[name].recaller, layouts[name].account
        expected = engines if layouts[name].recalls else None
        facts: dict[str, Fact] = {"mode": "load"}
        if account is not None:
            yield served_load(
                name,
                recaller,
                account,
                requests,
                num_clients=num_clients,
                duration_s=plan.load_s,
                facts=facts,
                expected=expected,
            )
            continue
        load = run_load(recaller, requests, num_clients=num_clients, duration_s=plan.load_s)
        throughput = len(load.samples_ns) / (load.duration_ns / NS_PER_S)
        found = {"batch": 1, "clients": num_clients, "throughput": throughput, **facts}
        found |= {"identical_lists": load.identical_lists(expected)}
        yield Row(name=name, facts=found, samples_ns=load.samples_ns)


def _with_ratios(rows: list[Row]) -> Iterator[Row]:
    medians = {(row.facts["mode"], row.facts["clients"], row.name): median(row.samples_ns) for row in rows}
    for row in rows:
        setting = (row.facts["mode"], row.facts["clients"])
        p50 = medians[*setting, row.name]
        more = {
            "overhead_ms": (p50 - medians[*setting, IN_PROCESS]) / 1e6,
            "ratio_to_empty": p50 / medians[*setting, EMPTY_PYTHON],
        }
        yield Row(name=row.name, facts={**row.facts, **more}, samples_ns=row.samples_ns)


if __name__ == "__main__":
    run_script(app)
