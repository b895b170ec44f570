"""Exact search of the k best items: the one that is used, Faiss's, and what was tried and lost.

Generated vectors; writes a JSON with every sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from recgpt.bench.catalogues import item_vectors, query_vectors
from recgpt.bench.environment import describe_environment
from recgpt.bench.results import Result, Row
from recgpt.bench.searchers import FAISS, Search, searchers
from recgpt.bench.tables import show_item_search
from recgpt.bench.threads import pin_threads
from recgpt.bench.timing import Sample, interleave
from recgpt.cli import run_script
from recgpt.types import Float32Array

SIZE = 64
METHOD = """\
Each round calls every way twice in a row, the second call counts, on the same queries. ItemIndex: a scan of all items
in 8 bits and exact scores of what it leaves in doubt, or Faiss where queries and items are few or k is large. Faiss
flat: IndexFlatIP; reservoir: the same where it keeps candidates in a reservoir for every k. ONNX Runtime, float32 and
TopK: products, the best blocks by their maxima, the best in these. numpy: one product and argpartition. torch: one
product and topk. same_items: share of queries with the k items of Faiss flat. ratio_to_faiss: Faiss flat's median over
the row's.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; one entry of ``num_rounds`` a number of queries."""

    num_items: tuple[int, ...] = (12_101, 100_000, 200_000)
    num_queries: tuple[int, ...] = (1, 2, 4, 8, 64, 512)
    num_rounds: tuple[int, ...] = (300, 300, 200, 100, 20, 5)
    k: tuple[int, ...] = (10, 50, 100)


QUICK = Plan(num_items=(12_101,), num_rounds=(20, 20, 20, 10, 5, 3), k=(10, 50))

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def item_search(
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/item_search.json"),
    threads: Annotated[int, typer.Option(min=1, help="Of each search.")] = 1,
    quick: Annotated[bool, typer.Option(help="One catalogue, few rounds: less than a minute.")] = False,
) -> None:
    """Measures exact searches over generated item vectors."""
    console, environment, plan = Console(), describe_environment(), QUICK if quick else Plan()
    blas_threads = pin_threads(threads)
    rows: list[Row] = []
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        for num_items in plan.num_items:
            task = progress.add_task(f"{num_items:,} items", total=len(plan.k) * sum(n + 1 for n in plan.num_rounds))
            done = partial(progress.update, task, advance=1, refresh=True)
            ways = searchers(item_vectors(num_items, SIZE), num_threads=threads)
            for num_queries, num_rounds in zip(plan.num_queries, plan.num_rounds, strict=True):
                queries = query_vectors(num_queries, num_items, SIZE)
                for k in plan.k:
                    facts = {"num_items": num_items, "num_queries": num_queries, "k": k}
                    rows += _measure(ways, queries, k, num_rounds, facts, done)
    method = {
        "title": "Exact search of the best items",
        "text": " ".join(METHOD.split()),
        "parameters": asdict(plan) | {"num_threads": threads, "blas_threads": blas_threads, "size": SIZE},
    }
    result = Result(name="item_search", environment=environment, method=method, rows=tuple(rows))
    result.save(out)
    show_item_search(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _measure(
    ways: Mapping[str, Search],
    queries: Float32Array,
    k: int,
    num_rounds: int,
    setting: Mapping[str, int],
    done: Callable[[], None],
) -> Iterator[Row]:
    expected = np.sort(ways[FAISS](queries, k)[0], axis=1)
    cases = {name: partial(_call, search, queries, k) for name, search in ways.items()}
    samples = interleave(cases, num_rounds=num_rounds, num_warmup=1, done=done)
    medians = {name: median(sample.total_ns for sample in taken) for name, taken in samples.items()}
    for name, taken in samples.items():
        same = (np.sort(ways[name](queries, k)[0], axis=1) == expected).all(axis=1)
        facts = {**setting, "same_items": float(same.mean()), "ratio_to_faiss": medians[FAISS] / medians[name]}
        yield Row.of(name, facts, taken)


def _call(search: Search, queries: Float32Array, k: int, number: int) -> Sample:
    started = time.perf_counter_ns()
    search(queries, k)
    return Sample(total_ns=time.perf_counter_ns() - started)


if __name__ == "__main__":
    run_script(app)
