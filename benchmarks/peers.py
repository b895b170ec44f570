"""Two-step recall in process against one step of other libraries, in alternating calls on the same histories.

A peer lives in an environment of its own, which this repository does not install:

    python -m venv artifacts/replay && artifacts/replay/bin/pip install torch "replay-rec[torch]==0.22.0" openvino
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from recgpt.bench.contenders import draw_batches
from recgpt.bench.environment import describe_environment
from recgpt.bench.peer import Peer
from recgpt.bench.results import Result, Row
from recgpt.bench.stages import time_recall
from recgpt.bench.subject import find_subject
from recgpt.bench.tables import show_peers
from recgpt.bench.timing import Case, Sample, interleave
from recgpt.bundle import Bundle
from recgpt.cli import run_script
from recgpt.engine import Engine
from recgpt.errors import DependencyError
from recgpt.recall.core import PretrainedOnlyWarning
from recgpt.recall.layout import Layout
from recgpt.types import RecallRequest

SCRIPT = Path(__file__).with_name("peer_replay.py")
QUOTAS = (9, 1)
COMPILED, EAGER = "RePlay, compiled (1 step)", "RePlay, eager PyTorch (1 step)"
PEER_WAYS = {COMPILED: "compiled", EAGER: "eager"}
METHOD = """\
Each round calls every contender once on the same histories; the first rounds are thrown away. Ours: two-step recall of
10 items that are not in the history. RePlay: SASRec of the same width, blocks, heads, window and catalogue with random
weights, scores of all items by OpenVINO or PyTorch, and the 10 best by torch.topk: one step, nothing left out. Both
begin with lists of numbers and end with lists of numbers; a peer takes its own times, so that pipes do not count.
Stages: encode, model (interests; a peer's hold the scores of all items), search, merge (ids). ratio_to_peer: RePlay
compiled's median over the row's; ratio_after_encode: the same without what makes tensors of lists.
"""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; one entry of ``num_rounds`` a batch size."""

    batch_sizes: tuple[int, ...] = (1, 32, 256)
    num_rounds: tuple[int, ...] = (500, 150, 50)
    num_warmup: int = 10


QUICK = Plan(num_rounds=(30, 10, 4), num_warmup=2)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def peers(
    bundle: Annotated[Path | None, typer.Option(help="What export/to_onnx.py wrote; else artifacts/bundle.")] = None,
    replay: Annotated[Path, typer.Option(help="Python of the environment with RePlay and OpenVINO.")] = Path(
        "artifacts/replay/bin/python"
    ),
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/peers.json"),
    threads: Annotated[int, typer.Option(min=1, help="Of every contender.")] = 1,
    quick: Annotated[bool, typer.Option(help="Fewer rounds: less than a minute.")] = False,
) -> None:
    """Measures our two-step recall against the one step of libraries that install from PyPI."""
    warnings.simplefilter("ignore", PretrainedOnlyWarning)
    console, environment, plan = Console(), describe_environment(), QUICK if quick else Plan()
    opened = find_subject(bundle, None, say=console.print).bundle
    sizes = asdict(opened.manifest.model) | {"batch_sizes": plan.batch_sizes, "num_threads": threads}
    missing: dict[str, str] = {}
    versions: Mapping[str, str] = {}
    with ExitStack() as stack, Progress(console=console, transient=True, auto_refresh=False) as progress:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines = {
            f"recgpt, {layout} (2 steps)": stack.enter_context(
                Engine.load(opened.path, num_threads=threads, layout=layout)
            )
            for layout in (Layout.FUSED, Layout.INDEX)
        }
        peer = None
        try:
            peer = stack.enter_context(Peer(replay, SCRIPT, sizes, log=folder / "replay.log"))
            versions = peer.versions
        except DependencyError as error:
            missing["RePlay"] = str(error)
        rows = [
            row
            for batch, num_rounds in zip(plan.batch_sizes, plan.num_rounds, strict=True)
            for row in _measure(engines, peer, opened, batch, num_rounds, plan.num_warmup, progress)
        ]
    method = {
        "title": "Two-step recall against one step of others",
        "text": " ".join(METHOD.split()),
        "parameters": asdict(plan) | sizes | {"quotas": QUOTAS},
        "missing": missing,
        "peer_versions": dict(versions),
    }
    result = Result(name="peers", environment=environment, method=method, rows=tuple(rows))
    result.save(out)
    show_peers(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _measure(
    engines: Mapping[str, Engine],
    peer: Peer | None,
    bundle: Bundle,
    batch: int,
    num_rounds: int,
    num_warmup: int,
    progress: Progress,
) -> list[Row]:
    batches = draw_batches(bundle, batch=batch, num_batches=num_rounds, quotas=QUOTAS)
    cases: dict[str, Case] = {name: _case(engine, batches) for name, engine in engines.items()}
    if peer is not None:
        # The numbers of the items' rows stand for the items; RePlay keeps the newest of a window.
        rows = bundle.catalogue().item_ids.rows
        window = bundle.manifest.model.max_length
        histories = [[rows(request.history)[-window:].tolist() for request in requests] for requests in batches]
        cases |= {name: _peer_case(peer, way, histories) for name, way in PEER_WAYS.items()}
    task = progress.add_task(f"batch {batch}", total=num_rounds + num_warmup)
    done: Callable[[], None] = partial(progress.update, task, advance=1, refresh=True)
    samples = interleave(cases, num_rounds=num_rounds, num_warmup=num_warmup, done=done)
    total = {name: median(sample.total_ns for sample in taken) for name, taken in samples.items()}
    rest = {name: median(_after_encode(sample) for sample in taken) for name, taken in samples.items()}
    return [
        Row.of(
            name,
            {
                "batch": batch,
                "throughput": batch / (float(np.mean([sample.total_ns for sample in taken])) / 1e9),
                "ratio_to_peer": total[COMPILED] / total[name] if peer is not None else None,
                "ratio_after_encode": rest[COMPILED] / rest[name] if peer is not None else None,
            },
            taken,
        )
        for name, taken in samples.items()
    ]


def _case(engine: Engine, batches: Sequence[Sequence[RecallRequest]]) -> Case:
    return lambda number: time_recall(engine, batches[number])


def _peer_case(peer: Peer, way: str, histories: Sequence[Sequence[Sequence[int]]]) -> Case:
    return lambda number: peer.call(way, histories[number], sum(QUOTAS))[0]


def _after_encode(sample: Sample) -> int:
    return sample.total_ns - sample.stages_ns["encode"]


if __name__ == "__main__":
    run_script(app)
