"""Two-step recall in process against one step of other libraries, in alternating calls on the same histories.

Each peer lives in an environment of its own, which this repository does not install; torch comes first and by itself,
so that pip may take a build for the CPU alone:

    for peer in replay rectools recbole; do
        python -m venv artifacts/$peer && artifacts/$peer/bin/pip install torch==2.13.0
    done
    artifacts/replay/bin/pip install "replay-rec[torch]==0.22.0" openvino==2026.4.1 onnx
    artifacts/rectools/bin/pip install "rectools[torch]==0.19.0"
    artifacts/recbole/bin/pip install recbole==1.2.1 numpy==1.26.4 pandas==2.3.3
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
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
from recgpt.bench.results import Fact, Result, Row
from recgpt.bench.stages import time_recall
from recgpt.bench.subject import Subject, find_subject
from recgpt.bench.tables import show_peers
from recgpt.bench.timing import Case, Sample, interleave
from recgpt.bundle import Bundle
from recgpt.cli import run_script
from recgpt.engine import Engine
from recgpt.errors import DependencyError
from recgpt.one_hop.answering import Recalls
from recgpt.recall.core import PretrainedOnlyWarning
from recgpt.recall.layout import Layout
from recgpt.types import RecallRequest

QUOTAS = (9, 1)
EAGER = "recgpt, eager PyTorch and topk (2 steps)"
METHOD = """\
Each round calls every contender once on the same histories; the first rounds are thrown away. Ours: two-step recall of
10 items that are not in the history, by each layout, and by PyTorch, all tokens again for each step, with torch.topk.
Peers: SASRec of the same width, blocks, heads, window and catalogue with random weights, the scores of all items and
the 10 best of them by torch.topk: one step, nothing left out. RePlay: histories padded to the window, as its compiled
model wants them; compiled by OpenVINO as it comes, in bfloat16 where the processor can, and in float32. RecTools: the
PyTorch modules that its recommend runs, the item vectors kept and histories padded to the longest; and recommend
itself, tables of pandas included. RecBole: full_sort_predict, histories padded to the longest. All begin with lists of
numbers and end with lists of numbers; a peer takes its own times, so that pipes do not count. Stages: encode, model
(interests; a peer's hold the scores of all items, of RecTools' recommend the whole call), search, merge (ids).
ratio_to_eager: the median of our eager PyTorch over the row's; of each peer likewise, by the fastest of its ways;
ratio_to_replay_float32: by the fastest in float32; ratio_after_encode: as ratio_to_replay, but without what makes
tensors of lists on both sides. identical_lists: share of requests with the items and the order of the same model in
PyTorch in float32, which is our eager row or the peer's.
"""


@dataclass(frozen=True, kw_only=True)
class Library:
    """A peer: its script, and how rows call the script's ways; the first way is PyTorch in float32."""

    script: str
    rows: Mapping[str, str]


LIBRARIES = {
    "RePlay": Library(
        script="peer_replay.py",
        rows={
            "eager": "RePlay, eager PyTorch (1 step)",
            "float32": "RePlay, compiled in float32 (1 step)",
            "compiled": "RePlay, compiled (1 step)",
        },
    ),
    "RecTools": Library(
        script="peer_rectools.py",
        rows={"modules": "RecTools, its modules (1 step)", "recommend": "RecTools, recommend (1 step)"},
    ),
    "RecBole": Library(script="peer_recbole.py", rows={"full_sort": "RecBole, full_sort_predict (1 step)"}),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured; one entry of ``num_rounds`` a batch size."""

    batch_sizes: tuple[int, ...] = (1, 32, 256)
    num_rounds: tuple[int, ...] = (500, 150, 50)
    num_warmup: int = 10


QUICK = Plan(num_rounds=(30, 10, 4), num_warmup=2)


@dataclass(frozen=True)
class Contenders:
    """Who is there, by name, and why others are not."""

    ours: dict[str, Recalls] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def peers(
    bundle: Annotated[Path | None, typer.Option(help="What export/to_onnx.py wrote; else artifacts/bundle.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Its checkpoint; else looked for beside the bundle.")] = None,
    replay: Annotated[Path, typer.Option(help="Python with RePlay.")] = Path("artifacts/replay/bin/python"),
    rectools: Annotated[Path, typer.Option(help="Python with RecTools.")] = Path("artifacts/rectools/bin/python"),
    recbole: Annotated[Path, typer.Option(help="Python with RecBole.")] = Path("artifacts/recbole/bin/python"),
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/peers.json"),
    threads: Annotated[int, typer.Option(min=1, help="Of every contender.")] = 1,
    quick: Annotated[bool, typer.Option(help="Fewer rounds: about a minute.")] = False,
) -> None:
    """Measures our two-step recall against the one step of libraries that install from PyPI."""
    warnings.simplefilter("ignore", PretrainedOnlyWarning)
    console, environment, plan = Console(), describe_environment(), QUICK if quick else Plan()
    subject = find_subject(bundle, checkpoint, say=console.print)
    sizes = asdict(subject.bundle.manifest.model) | {"batch_sizes": plan.batch_sizes, "num_threads": threads}
    pythons = dict(zip(LIBRARIES, (replay, rectools, recbole), strict=True))
    with ExitStack() as stack, Progress(console=console, transient=True, auto_refresh=False) as progress:
        contenders = Contenders()
        _open_ours(contenders, stack, subject, threads)
        _open_peers(contenders, stack, pythons, sizes)
        rows = [
            row
            for batch, num_rounds in zip(plan.batch_sizes, plan.num_rounds, strict=True)
            for row in _measure(contenders, subject.bundle, batch, num_rounds, plan, progress)
        ]
    method = {
        "title": "Two-step recall against one step of others",
        "text": " ".join(METHOD.split()),
        "parameters": asdict(plan) | sizes | {"quotas": QUOTAS},
        "missing": contenders.missing,
        "peer_versions": {name: dict(peer.versions) for name, peer in contenders.peers.items()},
    }
    result = Result(name="peers", environment=environment, method=method, rows=tuple(rows))
    result.save(out)
    show_peers(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _open_ours(contenders: Contenders, stack: ExitStack, subject: Subject, num_threads: int) -> None:
    if subject.checkpoint is None:
        contenders.missing[EAGER] = "no checkpoint of this bundle was found; name it with --checkpoint"
    else:
        from recgpt.bench.topk import topk_recaller

        eager = topk_recaller(subject.checkpoint, num_interests=len(QUOTAS), num_threads=num_threads)
        contenders.ours[EAGER] = stack.enter_context(eager)
    for layout in Layout:
        name = f"recgpt, {layout} (2 steps)"
        if layout is Layout.GRAPH and len(QUOTAS) not in subject.bundle.manifest.recalls:
            contenders.missing[name] = f"the bundle has no graph that recalls in {len(QUOTAS)} steps; export it again"
            continue
        engine = Engine.load(subject.bundle.path, num_threads=num_threads, layout=layout)
        contenders.ours[name] = stack.enter_context(engine)


def _open_peers(
    contenders: Contenders, stack: ExitStack, pythons: Mapping[str, Path], sizes: Mapping[str, object]
) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    for name, library in LIBRARIES.items():
        script = Path(__file__).with_name(library.script)
        try:
            peer = stack.enter_context(Peer(pythons[name], script, sizes, log=folder / f"{name}.log"))
        except DependencyError as error:
            contenders.missing[name] = str(error)
        else:
            contenders.peers[name] = peer


def _measure(
    contenders: Contenders, bundle: Bundle, batch: int, num_rounds: int, plan: Plan, progress: Progress
) -> list[Row]:
    batches = draw_batches(bundle, batch=batch, num_batches=num_rounds, quotas=QUOTAS)
    # The numbers of the items' rows stand for the items; peers keep the newest of a window.
    to_rows, window = bundle.catalogue().item_ids.rows, bundle.manifest.model.max_length
    histories = [[to_rows(request.history)[-window:].tolist() for request in requests] for requests in batches]
    cases: dict[str, Case] = {name: _case(recaller, batches) for name, recaller in contenders.ours.items()}
    for name, peer in contenders.peers.items():
        cases |= {row: _peer_case(peer, way, histories) for way, row in LIBRARIES[name].rows.items()}
    task = progress.add_task(f"batch {batch}", total=num_rounds + plan.num_warmup)
    done: Callable[[], None] = partial(progress.update, task, advance=1, refresh=True)
    samples = interleave(cases, num_rounds=num_rounds, num_warmup=plan.num_warmup, done=done)
    num_compared = max(plan.batch_sizes) // batch
    identical = _identical_lists(contenders, batches[:num_compared], histories[:num_compared])
    ratios = _ratios(contenders, samples)
    return [
        Row.of(
            name,
            {
                "batch": batch,
                "throughput": batch / (float(np.mean([sample.total_ns for sample in taken])) / 1e9),
                **ratios[name],
                "identical_lists": identical.get(name),
            },
            taken,
        )
        for name, taken in samples.items()
    ]


def _case(recaller: Recalls, batches: Sequence[Sequence[RecallRequest]]) -> Case:
    return lambda number: time_recall(recaller, batches[number])


def _peer_case(peer: Peer, way: str, histories: Sequence[Sequence[Sequence[int]]]) -> Case:
    return lambda number: peer.call(way, histories[number], sum(QUOTAS))[0]


def _ratios(contenders: Contenders, samples: Mapping[str, Sequence[Sample]]) -> dict[str, dict[str, Fact]]:
    """Of each row: how many times as fast as our eager PyTorch, and as each peer's fastest way; None without these."""
    total = {name: median(sample.total_ns for sample in taken) for name, taken in samples.items()}
    rest = {name: median(_after_encode(sample) for sample in taken) for name, taken in samples.items()}
    rivals = {"eager": [EAGER] if EAGER in contenders.ours else []}
    for name, library in LIBRARIES.items():
        rivals[name.lower()] = list(library.rows.values()) if name in contenders.peers else []
    rivals["replay_float32"] = [row for row in rivals["replay"] if row != LIBRARIES["RePlay"].rows["compiled"]]
    times = [(f"ratio_to_{rival}", total, rows) for rival, rows in rivals.items()]
    times.append(("ratio_after_encode", rest, rivals["replay"]))
    return {
        name: {fact: min(took[row] for row in rows) / took[name] if rows else None for fact, took, rows in times}
        for name in samples
    }


def _after_encode(sample: Sample) -> int:
    return sample.total_ns - sample.stages_ns["encode"]


def _identical_lists(
    contenders: Contenders,
    batches: Sequence[Sequence[RecallRequest]],
    histories: Sequence[Sequence[Sequence[int]]],
) -> dict[str, float]:
    """Share of requests whose list is that of the same model in PyTorch; of our rows only where that is there."""
    ours = {
        name: [answer.item_ids for batch in batches for answer in recaller.recall_many(batch)]
        for name, recaller in contenders.ours.items()
    }
    families: list[tuple[str, Mapping[str, Sequence[Sequence[object]]]]] = [(EAGER, ours)] if EAGER in ours else []
    for name, peer in contenders.peers.items():
        rows = LIBRARIES[name].rows
        lists = {
            row: [items for batch in histories for items in peer.call(way, batch, sum(QUOTAS))[1]]
            for way, row in rows.items()
        }
        families.append((next(iter(rows.values())), lists))
    return {
        name: float(np.mean([items == other for items, other in zip(lists, family[reference], strict=True)]))
        for reference, family in families
        for name, lists in family.items()
    }


if __name__ == "__main__":
    run_script(app)
