"""Requests of different history lengths in one call: padded to the longest, cut by length, one by one; and on Triton.

Histories are those of a data file, or the examples of the bundle; writes a JSON with every sample.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from recgpt.bench.contenders import TIMEOUT_S, TRITON, open_account, serve
from recgpt.bench.environment import describe_environment
from recgpt.bench.load import Lists, lists_alone, served_load
from recgpt.bench.mixed_lengths import (
    PADDED,
    PARTS,
    History,
    draw_mixed,
    length_facts,
    mixed_cases,
    open_ways,
    read_histories,
    share_of_equal_lists,
)
from recgpt.bench.results import Result, Row
from recgpt.bench.subject import find_subject
from recgpt.bench.tables import show_mixed_lengths
from recgpt.bench.timing import interleave
from recgpt.bundle import Bundle
from recgpt.cli import run_script
from recgpt.client import RecallClient
from recgpt.recall.core import PretrainedOnlyWarning
from recgpt.recall.recaller import Recaller
from recgpt.types import RecallRequest

QUOTAS = ((10,), (9, 1), (5, 1, 1, 1, 1, 1))
SERVED_QUOTAS = (9, 1)
METHOD = """\
Each round calls every way twice in a row, the second call counts, on the same requests, histories drawn with
replacement; the first rounds are thrown away. padded to the longest: one run of the fused graph a batch. cut by length:
what the engine does, runs of like lengths where they cost less, by costs that it measured when it loaded the graphs.
one by one: a call a request. ratio_to_padded: padded's median of the stage interests over the row's. identical_lists:
share of requests with exactly the items of one by one, in order. Triton: closed loop of that many clients, one request
a call; num_executions and num_inferences are the server's count of runs of the graph and of rows in them.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; one entry of ``num_rounds`` a batch size."""

    batch_sizes: tuple[int, ...] = (32, 256)
    num_rounds: tuple[int, ...] = (200, 60)
    num_warmup: int = 3
    num_compared: int = 256
    num_clients: tuple[int, ...] = (1, 8, 32)
    load_s: float = 5.0


QUICK = Plan(num_rounds=(10, 4), num_warmup=1, num_compared=64, load_s=1.0)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def mixed_lengths(
    bundle: Annotated[Path | None, typer.Option(help="What export/to_onnx.py wrote; else artifacts/bundle.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Data file with histories; else the examples of the bundle.")
    ] = None,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/mixed_lengths.json"),
    threads: Annotated[int, typer.Option(min=1, help="Of ONNX Runtime and Faiss in this process.")] = 1,
    quick: Annotated[bool, typer.Option(help="Fewer rounds: less than a minute.")] = False,
) -> None:
    """Measures calls whose histories differ in length, and how many of them Triton runs together."""
    warnings.simplefilter("ignore", PretrainedOnlyWarning)
    console, environment, plan = Console(), describe_environment(), QUICK if quick else Plan()
    opened = find_subject(bundle, None, say=console.print).bundle
    histories = read_histories(opened, data)
    quotas = [row for row in QUOTAS if len(row) in opened.manifest.num_interests]
    with (
        open_ways(opened, num_threads=threads) as (recallers, costs),
        # Drawn between rounds only: a bar that draws itself would do so while something is timed.
        Progress(console=console, transient=True, auto_refresh=False) as progress,
    ):
        rows = list(_measure(recallers, histories, quotas, plan, progress))
        [requests] = draw_mixed(histories, batch=max(plan.batch_sizes), num_batches=1, quotas=SERVED_QUOTAS)
        expected = lists_alone(recallers[PARTS], requests)
    rows += _measure_served(opened, requests, expected, plan, threads)
    method = {
        "title": "Requests of different lengths in one call",
        "text": " ".join(METHOD.split()),
        "parameters": {**asdict(plan), **asdict(opened.manifest.model), "num_threads": threads},
        "histories": length_facts(histories),
        "run_costs": {str(number): asdict(cost) for number, cost in costs.items()},
    }
    result = Result(name="mixed_lengths", environment=environment, method=method, rows=tuple(rows))
    result.save(out)
    show_mixed_lengths(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _measure(
    recallers: Mapping[str, Recaller],
    histories: Sequence[History],
    all_quotas: Sequence[tuple[int, ...]],
    plan: Plan,
    progress: Progress,
) -> Iterator[Row]:
    for (batch, num_rounds), quotas in product(zip(plan.batch_sizes, plan.num_rounds, strict=True), all_quotas):
        batches = draw_mixed(histories, batch=batch, num_batches=num_rounds, quotas=quotas)
        compared = batches[: max(1, plan.num_compared // batch)]
        identical = {
            name: share_of_equal_lists(recaller, recallers[PARTS], compared) for name, recaller in recallers.items()
        }
        task = progress.add_task(f"batch {batch}, J = {len(quotas)}", total=num_rounds + plan.num_warmup)
        done = partial(progress.update, task, advance=1, refresh=True)
        samples = interleave(
            mixed_cases(recallers, batches), num_rounds=num_rounds, num_warmup=plan.num_warmup, done=done
        )
        medians = {name: median(one.stages_ns["interests"] for one in taken) for name, taken in samples.items()}
        for name, taken in samples.items():
            facts = {
                "batch": batch,
                "num_interests": len(quotas),
                "ratio_to_padded": medians[PADDED] / medians[name],
                "identical_lists": identical.get(name, 1.0),
            }
            yield Row.of(name, facts, taken)


def _measure_served(
    bundle: Bundle, requests: Sequence[RecallRequest], expected: Lists, plan: Plan, threads: int
) -> list[Row]:
    with (
        serve(bundle) as url,
        RecallClient(url, bundle=bundle.path, timeout_s=TIMEOUT_S, num_threads=threads) as client,
        open_account(bundle, url, num_interests=len(SERVED_QUOTAS)) as account,
    ):
        return [
            served_load(
                TRITON,
                client,
                account,
                requests,
                num_clients=num_clients,
                duration_s=plan.load_s,
                facts={"num_interests": len(SERVED_QUOTAS), "ratio_to_padded": None},
                expected=expected,
            )
            for num_clients in plan.num_clients
        ]


if __name__ == "__main__":
    run_script(app)
