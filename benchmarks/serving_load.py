"""A real server under open-loop load, layout by layout and catalogue by catalogue: latency over the offered rate.

Exports stand-in models once, starts a Triton server for each, and drives it by MLPerf's LoadGen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Console

from recgpt.bench.async_layouts import open_async_layouts
from recgpt.bench.environment import describe_environment
from recgpt.bench.generated import NUM_INTERESTS, exported_sizes, generated_bundle
from recgpt.bench.layouts import (
    CLIENT_INDEX,
    EMPTY_PYTHON,
    ENGINE,
    GRAPH,
    IN_PROCESS,
    Layout,
    connect_layouts,
    open_accounts,
    serve_layouts,
)
from recgpt.bench.load import Lists, lists_alone
from recgpt.bench.load_report import highest_fact, show_serving_load
from recgpt.bench.load_rows import BARS, LIMIT_MS, ONE, judge
from recgpt.bench.load_run import Effort, LayoutLoad, generator_alone
from recgpt.bench.results import Fact, Result, Row
from recgpt.bench.sessions import click_requests
from recgpt.bench.timing import Sample, interleave
from recgpt.bundle import Bundle
from recgpt.cli import run_script
from recgpt.serving.server import TritonServer

QUOTAS = (9, 1)
LAYOUTS = (CLIENT_INDEX, GRAPH, ENGINE)
METHOD = f"""\
MLPerf's LoadGen, on the machine of the server. Mode server: single requests of Poisson arrivals, sent whether or not
earlier ones were answered; latency counts from the moment a request was due. Mode offline: all at once, sent in batches
of 256, two under way. The client awaits all requests in one event loop, in one process with LoadGen. Requests are those
of ETUDE: sessions of power-law length replayed click by click, histories cut to the model's window; 10 items by quotas
(9, 1). Item vectors are generated, weights random (recgpt/bench/generated.py); a million items have an approximate
index. The highest rate: up a ladder to the first rate whose p99 exceeds {LIMIT_MS:g} ms, then between; a rate that
misses by less than a factor of 4 has one more run, with other arrivals. Mode held: a bar's rate, three times for
longer; the median counts. Stages are means: generator, late by the clock or waiting for the event loop; client, ids to
rows and back; search, of an index in the client; queue and compute by Triton's account; network, the rest. client_cpu
and server_cpu: processor time a request. identical_lists: share of answers that are the list of the engine in process
for that request; own_lists: that are the list of this layout when nothing else is asked. Mode one request: single calls
in turn, two in a row of which the second counts; the empty model gives back 16 numbers, so a call of it is what the hop
itself costs. rows_a_run: requests that the server ran together. generator alone: LoadGen with a client that answers at
once. The JSON keeps 1,000 latencies of a run, evenly spaced by rank. The server is a stand-in with a process of Python
for each model; NVIDIA's own runs ONNX graphs in its own process.
"""


_EFFORT = Effort(
    run_s=5.0,
    held_s=30.0,
    offline_s=4.0,
    ladder=(50, 100, 200, 350, 500, 750, 1000, 1500, 2000, 3000, 4000),
    lowest=5.0,
    precision=1.06,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured."""

    num_items: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    num_requests: int = 512
    num_calls: int = 300
    num_warmup: int = 20
    alone: tuple[float, ...] = (200, 1000, 2000)
    effort: Effort = _EFFORT


QUICK = Plan(
    num_items=(10_000, 100_000),
    num_requests=64,
    num_calls=50,
    num_warmup=5,
    alone=(1000,),
    effort=Effort(run_s=0.6, held_s=1.0, offline_s=0.5, ladder=(200, 500, 1000, 2000), lowest=100.0, precision=2.0),
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serving_load(
    bundle: Annotated[Path | None, typer.Option(help="An export to measure in place of generated catalogues.")] = None,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/serving_load.json"),
    cache: Annotated[Path, typer.Option(help="Folder of the exported models, which are made once.")] = Path(
        "artifacts/serving_load"
    ),
    items: Annotated[list[int] | None, typer.Option(help="Sizes of the catalogue; may be given again.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of ONNX Runtime and Faiss in this process.")] = 1,
    quick: Annotated[bool, typer.Option(help="Short runs, only what was exported: less than a minute.")] = False,
) -> None:
    """Measures recall over a server under open-loop load."""
    console, environment, plan = Console(), describe_environment(), QUICK if quick else Plan()
    sizes = tuple(items) if items else plan.num_items
    if quick and not items:
        sizes = tuple(exported_sizes(sizes, cache))
    rows: list[Row] = []
    highest: list[dict[str, Fact]] = []
    for size in sizes if bundle is None else (None,):
        opened = Bundle.open(bundle) if bundle is not None else generated_bundle(size or 0, cache, say=console.print)
        measured = _Catalogue(opened, plan, num_threads=threads, with_floor=not rows, console=console)
        rows += measured.rows()
        highest += measured.highest
    method: dict[str, Any] = {
        "title": "Recall over a server under load",
        "text": " ".join(METHOD.split()),
        "parameters": {**asdict(plan), "num_items": sizes, "quotas": QUOTAS, "num_threads": threads},
        "highest": highest,
        "bars": judge(rows),
    }
    result = Result(name="serving_load", environment=environment, method=method, rows=tuple(rows))
    result.save(out)
    show_serving_load(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


class _Catalogue:
    """All that is measured of one export."""

    def __init__(self, bundle: Bundle, plan: Plan, *, num_threads: int, with_floor: bool, console: Console) -> None:
        self.highest: list[dict[str, Fact]] = []
        self._bundle = bundle
        self._plan = plan
        self._num_threads = num_threads
        self._with_floor = with_floor
        self._console = console
        self._num_items = bundle.manifest.model.num_items
        item_ids = bundle.catalogue().item_ids.ids
        self._requests = click_requests(plan.num_requests, item_ids, quotas=QUOTAS)

    def rows(self) -> Iterator[Row]:
        if self._with_floor:
            yield from asyncio.run(generator_alone(self._requests, self._plan.alone, self._plan.effort.run_s))
        with serve_layouts(self._bundle, num_interests=NUM_INTERESTS) as server:
            with connect_layouts(
                self._bundle, server.url, num_interests=NUM_INTERESTS, num_threads=self._num_threads
            ) as layouts:
                chosen = {name: layouts[name] for name in (IN_PROCESS, *LAYOUTS)}
                alone = {name: lists_alone(layout.recaller, self._requests) for name, layout in chosen.items()}
                yield from self._single_calls({**chosen, EMPTY_PYTHON: layouts[EMPTY_PYTHON]}, alone)
            # The engine in process is gone before the load comes.
            yield from asyncio.run(self._under_load(server, alone))

    def _single_calls(self, layouts: Mapping[str, Layout], alone: Mapping[str, Lists]) -> Iterator[Row]:
        def call(layout: Layout, number: int) -> Sample:
            request = self._requests[number % len(self._requests)]
            started = time.perf_counter_ns()
            layout.recaller.recall_many([request])
            return Sample(total_ns=time.perf_counter_ns() - started)

        samples = interleave(
            {name: partial(call, layout) for name, layout in layouts.items()},
            num_rounds=self._plan.num_calls,
            num_warmup=self._plan.num_warmup,
        )
        rows = [Row.of(name, {"mode": ONE, "num_items": self._num_items}, taken) for name, taken in samples.items()]
        floor = next(row.latency_ms["p50"] for row in rows if row.name == IN_PROCESS)
        for row in rows:
            facts = {
                **row.facts,
                "overhead_ms": row.latency_ms["p50"] - floor,
                "identical_lists": _share_equal(alone.get(row.name), alone[IN_PROCESS]),
            }
            yield Row(name=row.name, facts=facts, samples_ns=row.samples_ns)

    async def _under_load(self, server: TritonServer, alone: Mapping[str, Lists]) -> list[Row]:
        rows: list[Row] = []
        with open_accounts(self._bundle, server.url, num_interests=NUM_INTERESTS) as accounts:
            async with open_async_layouts(self._bundle, server.url, num_threads=self._num_threads) as layouts:
                for name in (*LAYOUTS, *([EMPTY_PYTHON] if self._with_floor else [])):
                    load = LayoutLoad(
                        name=name,
                        recall=layouts[name],
                        requests=self._requests,
                        account=accounts[name],
                        server_pid=server.pid,
                        facts={"num_items": self._num_items},
                        expected=alone[IN_PROCESS] if name in alone else None,
                        alone=alone.get(name),
                    )
                    bracket = await load.measure(self._plan.effort)
                    for bar in BARS:
                        is_about = bar.num_items == self._num_items and bar.is_for(name)
                        if is_about and bar.rate is not None and bar.rate <= (bracket.met or 0):
                            await load.hold(bar.rate, self._plan.effort)
                    rows += load.rows
                    self.highest.append(highest_fact(name, self._num_items, bracket, load.rows))
                    self._console.print(f"{self._num_items:,} items, {name}: {self.highest[-1]['met']} requests/s")
        return rows


def _share_equal(lists: Lists | None, expected: Lists) -> float | None:
    return None if lists is None else fmean(one == other for one, other in zip(lists, expected, strict=True))


if __name__ == "__main__":
    run_script(app)
