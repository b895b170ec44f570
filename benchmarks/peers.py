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
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from recgpt.bench.environment import describe_environment
from recgpt.bench.floor import RecallFloor
from recgpt.bench.peer import Peer
from recgpt.bench.peer_rows import EAGER, Contest, Library
from recgpt.bench.peers_report import REPLAY_COMPILED
from recgpt.bench.results import Result
from recgpt.bench.subject import Subject, find_subject
from recgpt.bench.tables import show_peers
from recgpt.bench.threads import pin_threads
from recgpt.cli import run_script
from recgpt.engine import Engine
from recgpt.errors import DependencyError
from recgpt.recall.core import PretrainedOnlyWarning
from recgpt.recall.layout import Layout

QUOTAS = (9, 1)
METHOD = """\
Each round calls every contender twice in a row, the second call counts, on the same histories; the first rounds are
thrown away. Ours: two-step recall of 10 items that are not in the history, by each layout, and by PyTorch, all tokens
again for each step, with torch.topk. Peers: SASRec of the same width, blocks, heads, window and catalogue with random
weights, the scores of all items and the 10 best of them by torch.topk: one step, nothing left out. RePlay: histories
padded to the window, as its compiled model wants them; compiled by OpenVINO as it comes, in bfloat16 where the
processor can, and in float32. RecTools: the PyTorch modules that its recommend runs, the item vectors kept and
histories padded to the longest; and recommend itself, tables of pandas included. RecBole: full_sort_predict, histories
padded to the longest. All begin with lists of numbers and end with lists of numbers; a peer takes its own times, so
that pipes do not count. On both sides what was loaded is kept out of the collection of garbage (gc.freeze). Stages:
encode, model (interests; a peer's hold the scores of all items, of RecTools' recommend the whole call), search, merge
(ids). ratio_to_eager: the median of our eager PyTorch over the row's; of each peer likewise, by the fastest of its
ways; ratio_to_replay_float32: by the fastest in float32; ratio_after_encode: as ratio_to_replay, but without what makes
tensors of lists on both sides. floor: one product [B,D]x[D,V] and the 10 best items of 2 B random queries, each by the
library that was fastest with as many in five trials (Faiss flat, numpy, PyTorch, ONNX Runtime), in float32;
ratio_to_floor: the row's median over the floor's, which graphs and index that look through 8 bits may fall short of.
identical_lists: share of requests with the items and the order of the same model in PyTorch in float32, which is our
eager row or the peer's.
"""


LIBRARIES = {
    "RePlay": Library(
        script="peer_replay.py",
        rows={
            "eager": "RePlay, eager PyTorch (1 step)",
            "float32": "RePlay, compiled in float32 (1 step)",
            "compiled": REPLAY_COMPILED,
        },
        less_than_float32="compiled",
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
    blas_threads = pin_threads(threads)
    subject = find_subject(bundle, checkpoint, say=console.print)
    sizes = asdict(subject.bundle.manifest.model) | {"batch_sizes": plan.batch_sizes, "num_threads": threads}
    pythons = dict(zip(LIBRARIES, (replay, rectools, recbole), strict=True))
    with ExitStack() as stack, Progress(console=console, transient=True, auto_refresh=False) as progress:
        vectors = subject.bundle.index(num_threads=threads).vectors()
        floor = RecallFloor(vectors, num_interests=len(QUOTAS), k=sum(QUOTAS), num_threads=threads)
        contest = Contest(libraries=LIBRARIES, quotas=QUOTAS, floor=floor)
        _open_ours(contest, stack, subject, threads)
        _open_peers(contest, stack, pythons, sizes)
        rows = [
            row
            for batch, num_rounds in zip(plan.batch_sizes, plan.num_rounds, strict=True)
            for row in contest.measure(
                subject.bundle,
                batch=batch,
                num_rounds=num_rounds,
                num_warmup=plan.num_warmup,
                num_compared=max(plan.batch_sizes) // batch,
                progress=progress,
            )
        ]
    method = {
        "title": "Two-step recall against one step of others",
        "text": " ".join(METHOD.split()),
        "parameters": asdict(plan) | sizes | {"quotas": QUOTAS, "blas_threads": blas_threads},
        "missing": contest.missing,
        "peer_versions": {name: dict(peer.versions) for name, peer in contest.peers.items()},
    }
    result = Result(name=out.stem, environment=environment, method=method, rows=tuple(rows))
    result.save(out)
    show_peers(result, console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _open_ours(contest: Contest, stack: ExitStack, subject: Subject, num_threads: int) -> None:
    if subject.checkpoint is None:
        contest.missing[EAGER] = "no checkpoint of this bundle was found; name it with --checkpoint"
    else:
        from recgpt.bench.topk import topk_recaller

        eager = topk_recaller(subject.checkpoint, num_interests=len(QUOTAS), num_threads=num_threads)
        contest.ours[EAGER] = stack.enter_context(eager)
    for layout in Layout:
        name = f"recgpt, {layout} (2 steps)"
        if layout is Layout.GRAPH and len(QUOTAS) not in subject.bundle.manifest.recalls:
            contest.missing[name] = f"the bundle has no graph that recalls in {len(QUOTAS)} steps; export it again"
            continue
        engine = Engine.load(subject.bundle.path, num_threads=num_threads, layout=layout)
        contest.ours[name] = stack.enter_context(engine)


def _open_peers(contest: Contest, stack: ExitStack, pythons: Mapping[str, Path], sizes: Mapping[str, object]) -> None:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    for name, library in LIBRARIES.items():
        script = Path(__file__).with_name(library.script)
        try:
            peer = stack.enter_context(Peer(pythons[name], script, sizes, log=folder / f"{name}.log"))
        except DependencyError as error:
            contest.missing[name] = str(error)
        else:
            contest.peers[name] = peer


if __name__ == "__main__":
    run_script(app)
