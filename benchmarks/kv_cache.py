"""Where a KV cache pays: interests and prompts generated on a cache, against the whole sequence run again each time.

Plain PyTorch and random weights, since times do not depend on weights; writes a JSON with every sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from recgpt.bench.environment import describe_environment
from recgpt.bench.results import Result, Row
from recgpt.bench.tables import show_kv_cache
from recgpt.bench.timing import Sample, interleave
from recgpt.bench.walks import (
    CachedWalk,
    RecomputedWalk,
    Walk,
    share_of_equal_walks,
    walk_interests,
    walk_prompts,
)
from recgpt.cli import run_script
from recgpt.config import ModelConfig
from recgpt.model.decoder import Decoder
from recgpt.model.prompts import num_real_items

METHOD = """\
Each round calls both ways twice in a row, the second call counts, on the same random histories; the first is thrown
away. Random weights. Both ways generate by a product with the whole catalogue, in PyTorch; recomputed runs, in the last
block, the one position that is asked for, as cached does. task interests: J interests after histories that fill the
window but for what is generated. task prompts: K items generated before each item but the first, and the interest after
all of it. ratio: recomputed's median over cached's; above 1 the cache pays. K = 0 is left out: one run makes the
interest, and nothing is generated that a cache could save. max_difference: of any number of the interests.
identical_lists: share of histories of which both ways generate the same items and find the same 10 best for every
interest, in order.
"""
NUM_COMPARED = 10
CACHED, RECOMPUTED = "cached", "recomputed"
WALKS: dict[str, type[Walk]] = {CACHED: CachedWalk, RECOMPUTED: RecomputedWalk}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of the study; ``number`` is J or K."""

    task: str = "interests"
    number: int = 6
    batch: int = 32
    max_length: int = 50
    hidden_size: int = 64
    num_blocks: int = 1
    num_items: int = 12_101


BASE = Setting()
# One thing changes at a time, from the paper's shape on Beauty's catalogue.
STUDY = (
    *(replace(BASE, number=number, batch=batch) for batch in (1, 32) for number in range(1, 7)),
    *(replace(BASE, task="prompts", number=number, batch=batch) for batch in (1, 32) for number in range(1, 7)),
    *(replace(BASE, max_length=length) for length in (25, 100, 200, 400)),
    *(replace(BASE, hidden_size=width) for width in (32, 128, 256)),
    *(replace(BASE, num_blocks=blocks) for blocks in (2, 4)),
    *(replace(BASE, num_items=items) for items in (1_000, 100_000)),
    replace(BASE, batch=256),
)
QUICK_STUDY = (BASE, replace(BASE, number=2), replace(BASE, task="prompts", number=2), replace(BASE, num_blocks=2))

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def kv_cache(
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/kv_cache.json"),
    threads: Annotated[int, typer.Option(min=1, help="Of PyTorch.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Samples of each way in each setting.")] = 30,
    quick: Annotated[bool, typer.Option(help="Four settings, three rounds: less than a minute.")] = False,
) -> None:
    """Measures generation on a KV cache against recomputation over sizes, steps and prompts."""
    torch.set_num_threads(threads)
    console, environment = Console(), describe_environment()
    study, num_rounds = (QUICK_STUDY, 3) if quick else (STUDY, rounds)
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("settings", total=len(study) * (num_rounds + 1))
        done = partial(progress.update, task, advance=1, refresh=True)
        rows = [row for setting in study for row in _measure(setting, num_rounds, done)]
    parameters = {"num_threads": threads, "num_rounds": num_rounds, "num_warmup": 1, "base": asdict(BASE)}
    method = {"title": "Where a KV cache pays", "text": " ".join(METHOD.split()), "parameters": parameters}
    result = Result(name="kv_cache", environment=environment, method=method, rows=tuple(rows))
    result.save(out)
    show_kv_cache(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _measure(setting: Setting, num_rounds: int, done: Callable[[], None]) -> Iterator[Row]:
    config = ModelConfig(
        max_length=setting.max_length, hidden_size=setting.hidden_size, num_blocks=setting.num_blocks,
        ffn_size=4 * setting.hidden_size,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = Decoder(config, num_items=setting.num_items, num_users=1).eval()
        rows = torch.randint(1, setting.num_items + 1, (setting.batch, _history(setting)))
    generate = walk_interests if setting.task == "interests" else walk_prompts
    expected, found = (generate(walk, decoder, rows, setting.number) for walk in (RecomputedWalk, CachedWalk))

    def call(walk: type[Walk], number: int) -> Sample:
        started = time.perf_counter_ns()
        generate(walk, decoder, rows, setting.number)
        return Sample(total_ns=time.perf_counter_ns() - started)

    cases = {name: partial(call, walk) for name, walk in WALKS.items()}
    samples = interleave(cases, num_rounds=num_rounds, num_warmup=1, done=done)
    medians = {name: median(sample.total_ns for sample in taken) for name, taken in samples.items()}
    facts = {
        **asdict(setting),
        "history": rows.shape[1],
        "ratio": medians[RECOMPUTED] / medians[CACHED],
        "max_difference": float((expected.interests - found.interests).abs().max()),
        "identical_lists": share_of_equal_walks(expected, found, decoder, k=NUM_COMPARED),
    }
    for name, taken in samples.items():
        yield Row.of(name, facts, taken)


def _history(setting: Setting) -> int:
    if setting.task == "interests":
        return setting.max_length - (setting.number - 1)
    return num_real_items(setting.max_length, setting.number)


if __name__ == "__main__":
    run_script(app)
