"""Recall in process from several threads at once, and the memory that it takes.

Closed loop of 1 to 8 client threads on one engine; memory is measured in fresh processes, for the bundle and for
catalogues of other sizes. Writes a JSON with every sample.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from recgpt.bench.contenders import draw_batches
from recgpt.bench.environment import describe_environment
from recgpt.bench.load import NS_PER_S, lists_alone, run_load
from recgpt.bench.memory import OWN, SHARED, measure_memory, random_bundle
from recgpt.bench.results import Result, Row
from recgpt.bench.subject import find_subject
from recgpt.bench.tables import show_concurrency
from recgpt.bundle import Bundle
from recgpt.cli import run_script
from recgpt.engine import Engine
from recgpt.recall.core import PretrainedOnlyWarning

QUOTAS = (9, 1)
NUM_REQUESTS = 256
METHOD = """\
Threads share one engine, whose sessions and index have no lock, and send single requests of real histories, each its
next one when it has the answer to the last; ONNX Runtime and Faiss run in the calling thread. ratio_to_one: requests a
second over those of one thread. identical_lists: share of all answers that are the list of the same request when
nothing else is asked. memory: resident bytes of a fresh process after it started, loaded the libraries, the
index and all graphs, and recalled 20 times; peak is the most there ever were, which is while a file is read. one item
matrix: graphs and index use the same memory, as in the engine; an item matrix a graph: a copy in each.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; memory of the bundle, and of random models of so many items."""

    num_clients: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    load_s: float = 5.0
    num_items: tuple[int, ...] = (1_000_000,)


QUICK = Plan(num_clients=(1, 2, 4, 8), load_s=1.0, num_items=())

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def concurrency(
    bundle: Annotated[Path | None, typer.Option(help="What export/to_onnx.py wrote; else artifacts/bundle.")] = None,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/concurrency.json"),
    quick: Annotated[bool, typer.Option(help="Less time, and only the bundle's memory: less than a minute.")] = False,
) -> None:
    """Measures throughput over client threads, and memory."""
    warnings.simplefilter("ignore", PretrainedOnlyWarning)
    console, environment, plan = Console(), describe_environment(), QUICK if quick else Plan()
    opened = find_subject(bundle, None, say=console.print).bundle
    rows = tuple(_measure_load(opened, plan))
    method = {
        "title": "Client threads on one engine",
        "text": " ".join(METHOD.split()),
        "parameters": {**asdict(plan), **asdict(opened.manifest.model), "num_threads": 1},
        "memory": [*_measure_memory(opened), *_measure_other_sizes(plan)],
    }
    result = Result(name="concurrency", environment=environment, method=method, rows=rows)
    result.save(out)
    show_concurrency(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _measure_load(bundle: Bundle, plan: Plan) -> Iterator[Row]:
    [requests] = draw_batches(bundle, batch=NUM_REQUESTS, num_batches=1, quotas=QUOTAS)
    with Engine.load(bundle.path, num_threads=1) as engine:
        expected, alone = lists_alone(engine, requests), None
        for num_clients in plan.num_clients:
            load = run_load(engine, requests, num_clients=num_clients, duration_s=plan.load_s)
            throughput = len(load.samples_ns) / (load.duration_ns / NS_PER_S)
            alone = alone or throughput
            facts = {
                "clients": num_clients,
                "throughput": throughput,
                "ratio_to_one": throughput / alone,
                "identical_lists": load.identical_lists(expected),
            }
            yield Row(name="engine", facts=facts, samples_ns=load.samples_ns)


def _measure_memory(bundle: Bundle) -> Iterator[dict[str, Any]]:
    graph_bytes = sum(path.stat().st_size for path in bundle.graphs().values())
    for shares in (True, False):
        yield {
            "row": SHARED if shares else OWN,
            "num_items": bundle.manifest.model.num_items,
            "num_graphs": len(bundle.graphs()),
            "graph_bytes": graph_bytes,
            **measure_memory(bundle.path, shares=shares),
        }


def _measure_other_sizes(plan: Plan) -> Iterator[dict[str, Any]]:
    for num_items in plan.num_items:
        with tempfile.TemporaryDirectory() as folder:
            yield from _measure_memory(random_bundle(Path(folder) / "bundle", num_items=num_items))


if __name__ == "__main__":
    run_script(app)
