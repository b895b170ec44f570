"""Threads of one call in process: inside its runs and searches, or with a share of its requests each.

Exports stand-in models once, over catalogues of three sizes; writes a JSON with every sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recgpt.bench.call_threads import cases, open_ways, rows
from recgpt.bench.contenders import draw_batches
from recgpt.bench.environment import describe_environment
from recgpt.bench.generated import exported_sizes, generated_bundle
from recgpt.bench.load import lists_alone
from recgpt.bench.results import Result, Row
from recgpt.bench.tables import show_call_threads
from recgpt.bench.timing import interleave
from recgpt.bundle import Bundle
from recgpt.cli import run_script

QUOTAS = (9, 1)
METHOD = """\
Each round calls every way twice in a row, the second call counts, on the same requests; the first rounds are thrown
away. Item vectors are generated, weights random (recgpt/bench/generated.py); a million items have an approximate index.
Two-step recall of 10 items. one thread: of ONNX Runtime, Faiss and the call. threads inside runs and searches: so many
in each session and in Faiss. requests shared out to threads: however few, to as many as there are requests at most,
each with runs and searches of one thread. engine: which of these it takes by the size of catalogue and call.
ratio_to_one: one thread's median over the row's. identical_lists: share of requests with the items and the order that
one thread gives when each is asked alone.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; one entry of ``num_rounds`` a batch size."""

    num_items: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    batch_sizes: tuple[int, ...] = (1, 8, 32, 64, 256)
    num_rounds: tuple[int, ...] = (200, 200, 100, 60, 40)
    num_warmup: int = 3
    num_compared: int = 256


QUICK = Plan(num_items=(10_000, 100_000), num_rounds=(20, 20, 10, 6, 4), num_warmup=1, num_compared=64)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def call_threads(
    bundle: Annotated[Path | None, typer.Option(help="An export to measure in place of generated catalogues.")] = None,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/call_threads.json"),
    cache: Annotated[Path, typer.Option(help="Folder of the exported models, which are made once.")] = Path(
        "artifacts/serving_load"
    ),
    threads: Annotated[int, typer.Option(min=2, help="Of one call.")] = 2,
    quick: Annotated[bool, typer.Option(help="Fewer rounds, only what was exported: less than a minute.")] = False,
) -> None:
    """Measures what several threads bring to one call."""
    console, environment, plan = Console(), describe_environment(), QUICK if quick else Plan()
    sizes = exported_sizes(plan.num_items, cache) if quick else plan.num_items
    found: list[Row] = []
    for size in sizes if bundle is None else (0,):
        opened = Bundle.open(bundle) if bundle is not None else generated_bundle(size, cache, say=console.print)
        found += _measure(opened, plan, threads)
    method = {
        "title": "Threads of one call",
        "text": " ".join(METHOD.split()),
        "parameters": {**asdict(plan), "num_items": sizes, "quotas": QUOTAS, "num_threads": threads},
    }
    result = Result(name="call_threads", environment=environment, method=method, rows=tuple(found))
    result.save(out)
    show_call_threads(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _measure(bundle: Bundle, plan: Plan, num_threads: int) -> Iterator[Row]:
    [compared] = draw_batches(bundle, batch=plan.num_compared, num_batches=1, quotas=QUOTAS)
    with open_ways(bundle, num_threads) as ways:
        expected = lists_alone(next(iter(ways.values())), compared)
        for batch, num_rounds in zip(plan.batch_sizes, plan.num_rounds, strict=True):
            batches = draw_batches(bundle, batch=batch, num_batches=num_rounds, quotas=QUOTAS)
            samples = interleave(cases(ways, batches), num_rounds=num_rounds, num_warmup=plan.num_warmup)
            setting = {"num_items": bundle.manifest.model.num_items, "batch": batch, "num_threads": num_threads}
            yield from rows(ways, samples, compared, expected, **setting)


if __name__ == "__main__":
    run_script(app)
