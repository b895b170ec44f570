"""Two-step recall as the catalogue grows: layouts and indexes, their latency, and what they find of the exact answer.

Generated vectors and random weights; writes a JSON with every sample, and a plot of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from recgpt.bench.environment import describe_environment
from recgpt.bench.growth import REFERENCE, Fitted, Grown, Indexes, grown_precision, open_way, ways
from recgpt.bench.growth_report import crossover, plot_growth, show_growth
from recgpt.bench.results import Result, Row
from recgpt.bench.stages import time_recall
from recgpt.bench.timing import interleave
from recgpt.cli import run_script
from recgpt.recall.index_ann import IndexKind
from recgpt.types import RecallRequest

METHOD = """\
Each round calls every way twice in a row, the second call counts, on the same requests: 100 items by quotas (90, 10),
histories of 3 to 30 items, which are not to be found again. Item vectors are a seeded mixture about as hard to search
as Amazon Beauty's trained ones (recgpt/bench/catalogues.py); the decoder (width 64, one block, 50 positions) has random
weights, so interests lie near the histories' items. fused graph: the graph looks through the catalogue for the item
that is fed back, and all searches follow. one graph: it makes the lists and merges them as well; not measured where its
scores take more than 256 MB. Graphs hold the catalogue in 8 bits besides float32, and look through the 8 bits; where a
file has no room for both, in float16 alone. From five million items on only the index in the loop is measured, exact
and by ivf_pq: graphs that look through the catalogue, and the other indexes, need more memory than 24 GB or hours; and
of batches those whose scores take at most 2 GB. index in the loop: interest, search, interest, search. exact: all items
in 8 bits, those in doubt in float32. hnsw, ivf, ivf_sq8, ivf_pq: candidates by Faiss, exact scores; effort fitted on
other requests to find 97%. ann_recall_at_100: share of the exact 100 best for the interests of this row's requests.
identical_lists: share of requests with the reference's list in its order; the reference is the fused graph with exact
search, else the loop.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; one entry of ``num_rounds`` a batch size."""

    num_items: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    kinds: tuple[IndexKind, ...] = tuple(IndexKind)
    num_threads: tuple[int, ...] = (1, 2)
    batch_sizes: tuple[int, ...] = (1, 8, 32, 256)
    num_rounds: tuple[int, ...] = (200, 40, 20, 5)
    num_warmup: int = 2


QUICK = Plan(
    num_items=(10_000, 100_000),
    kinds=(IndexKind.FLAT, IndexKind.IVF_SQ8),  # the graph of hnsw takes a minute to build
    num_threads=(1,),
    batch_sizes=(1, 32),
    num_rounds=(20, 3),
    num_warmup=1,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def catalogue_growth(
    out: Annotated[Path, typer.Option(help="JSON to write; the plot of several sizes goes beside it.")] = Path(
        "benchmarks/results/catalogue_growth.json"
    ),
    cache: Annotated[Path, typer.Option(help="Folder of the exported graphs, which are made once.")] = Path(
        "artifacts/catalogue_growth"
    ),
    items: Annotated[list[int] | None, typer.Option(help="Sizes of the catalogue; may be given again.")] = None,
    quick: Annotated[bool, typer.Option(help="Two sizes, few rounds: less than a minute.")] = False,
) -> None:
    """Measures layouts and indexes over catalogues of growing size."""
    console, environment, plan = Console(), describe_environment(), QUICK if quick else Plan()
    rows: list[Row] = []
    sizes = items or plan.num_items
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        for num_items in sizes:
            task = progress.add_task(f"{num_items:,} items", total=len(plan.num_threads) * _calls(plan))
            done = partial(progress.update, task, advance=1, refresh=True)
            grown = Grown.make(num_items, cache)
            fitted: dict[IndexKind, Fitted] = {}
            for num_threads in plan.num_threads:
                rows += _measure(Indexes(grown, num_threads, fitted), plan, done)
    method: dict[str, Any] = {
        "title": _title(sizes),
        "text": " ".join(METHOD.split()),
        "parameters": asdict(plan) | {"num_items": sizes, "precision": [grown_precision(size) for size in sizes]},
        "crossover": crossover(rows),
    }
    result = Result(name=out.stem, environment=environment, method=method, rows=tuple(rows))
    result.save(out)
    show_growth(result, console)
    written = [out, *plot_growth(result, out.parent)]
    console.print(f"wrote {' and '.join(map(str, written))}", markup=False, soft_wrap=True)


def _title(sizes: Sequence[int]) -> str:
    recall = "Two-step recall of 100 items"
    return f"{recall} as the catalogue grows" if len(sizes) > 1 else f"{recall} among {sizes[0]:,}"


def _calls(plan: Plan) -> int:
    return sum(plan.num_rounds) + plan.num_warmup * len(plan.num_rounds)


def _measure(indexes: Indexes, plan: Plan, done: Callable[[], None]) -> Iterator[Row]:
    grown, num_threads = indexes.grown, indexes.num_threads
    num_items = grown.spec.num_items
    chosen = [way for way in ways(num_items) if way.kind in plan.kinds]
    with ExitStack() as stack:
        opened = {way: stack.enter_context(open_way(way, grown, indexes)) for way in chosen}
        for batch, num_rounds in zip(plan.batch_sizes, plan.num_rounds, strict=True):
            if not REFERENCE.fits(num_items, batch):
                continue
            batches = [grown.requests(batch, seed=10 + number) for number in range(num_rounds)]
            compared = batches[: max(1, 64 // batch)]
            some = [request for requests in compared for request in requests]
            fitting = {way: recaller for way, recaller in opened.items() if way.fits(num_items, batch)}
            lists = {
                way: [answer.item_ids for requests in compared for answer in recaller.recall_many(requests)]
                for way, recaller in fitting.items()
            }

            def call(recaller: Any, number: int, given: list[list[RecallRequest]] = batches) -> Any:
                return time_recall(recaller, given[number])

            cases = {way.name: partial(call, recaller) for way, recaller in fitting.items()}
            found = indexes.recalls({way.kind for way in fitting}, some)
            samples = interleave(cases, num_rounds=num_rounds, num_warmup=plan.num_warmup, done=done)
            medians = {name: median(sample.total_ns for sample in taken) for name, taken in samples.items()}
            for way in fitting:
                facts = {
                    "layout": str(way.layout),
                    "index": str(way.kind),
                    "num_items": num_items,
                    "num_threads": num_threads,
                    "batch": batch,
                    "ann_recall_at_100": found[way.kind],
                    "identical_lists": float(
                        np.mean([a == b for a, b in zip(lists[way], lists[indexes.reference], strict=True)])
                    ),
                    "ratio_to_reference": medians[indexes.reference.name] / medians[way.name],
                    "effort": indexes.facts(way.kind).get("effort"),
                    "build_s": indexes.facts(way.kind).get("build_s"),
                }
                yield Row.of(way.name, facts, samples[way.name])


if __name__ == "__main__":
    run_script(app)
