"""The whole chain as a user would type it, one command after the other, on one machine.

Each step is the real command in a process of its own, printed before it runs; the demo only adds data where there is
none, a server on a free port, and the table at the end.
"""

from __future__ import annotations

import shlex
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recgpt.bundle import Bundle, Example
from recgpt.client import RecallClient
from recgpt.data.names import read_item_names
from recgpt.data.sequences import write_sequences
from recgpt.data.synthetic import generate
from recgpt.engine import Engine
from recgpt.errors import DataError, RecGPTError
from recgpt.recall.core import PretrainedOnlyWarning
from recgpt.recall.recaller import Recaller
from recgpt.serving.server import TritonServer
from recgpt.tables import named, show_candidates
from recgpt.types import Candidates, ItemId

# The scripts of a checkout; the demo is run from one.
CHECKOUT = Path(__file__).resolve().parents[1]

NUM_CALLS = 50
QUOTAS = (9, 1)


def run_demo(*, data: Path | None, items: Path | None, epochs: int | None, out: Path, console: Console) -> None:
    """Trains, evaluates, exports, serves, recalls and measures.

    Args:
        data: the user's interactions; None generates some.
        items: table of item names to show.
        epochs: upper bound for each training stage; None leaves it to the recipe.
        out: folder for everything but triton_models/.
        console: where it is told.

    Raises:
        RecGPTError: a step failed; its own message was printed before.
    """
    names = read_item_names(items) if items else {}
    if data is None:
        data = out / "demo_data.txt"
        console.print(f"generating {data}: 3,000 users, 1,000 items, latent interests that drift")
        write_sequences(data, generate(num_users=3000, num_items=1000, seed=0))
    elif not data.is_file():
        raise DataError(f"{data}: no such file; expected interactions, as described in README.md")
    name = data.name.partition(".")[0]
    run, bundle, evaluation = out / f"run_{name}_{epochs or 'all'}", out / "bundle", out / "evaluation.json"
    bound = ("--epochs", epochs) if epochs else ()
    checkpoint = run / "ckpt.pt"
    started = time.perf_counter()
    _command(console, "recgpt", "train", "--data", data, "--out", run, *bound)
    _command(console, "recgpt", "evaluate", checkpoint, "--data", data, "--json", evaluation)
    _command(console, "python", _script("export/to_onnx.py"), checkpoint, "--out", bundle, "--evaluation", evaluation)
    _command(console, "python", _script("export/to_torchscript.py"), checkpoint, "--out", out / "torchscript")
    _command(
        console, "python", _script("benchmarks/recall_latency.py"), "--bundle", bundle, "--checkpoint", checkpoint,
        "--out", out / "recall_latency.json", "--quick",
    )  # fmt: skip
    _step(console, "tritonserver --model-repository triton_models")
    with TritonServer(CHECKOUT / "triton_models", log=out / "tritonserver.log") as server:
        console.print(f"ready at {server.url}, a free port")
        _show_recall(console, bundle, server.url, names)
    console.print(f"\ndone in {time.perf_counter() - started:.0f} s; everything is in {out}", markup=False)


def _show_recall(console: Console, bundle: Path, url: str, names: dict[ItemId, str]) -> None:
    example = Bundle.open(bundle).examples()[0]
    console.print(f"user {example.user_id}, history, oldest first:", markup=False)
    history = Table("item", *(["name"] if names else []), box=None)
    for item in example.history:
        history.add_row(Text(str(item)), *named(item, names))
    console.print(history)
    console.print("recalled in two steps, nine items by the first interest, one by the second:")
    with RecallClient(url, bundle=bundle) as client, Engine.load(bundle) as engine, warnings.catch_warnings():
        # Two steps are shown whether tuning made the model better or not.
        warnings.simplefilter("ignore", PretrainedOnlyWarning)
        served, over_grpc_ms = _recall_often(client, example)
        in_process, engine_ms = _recall_often(engine, example)
    show_candidates(served, names, console)
    same = "the same items" if in_process.item_ids == served.item_ids else "OTHER ITEMS"
    console.print(
        f"median of {NUM_CALLS} calls: {over_grpc_ms:.2f} ms over gRPC; {engine_ms:.2f} ms in process, {same}"
    )


def _recall_often(recaller: Recaller, example: Example) -> tuple[Candidates, float]:
    answers = [recaller.recall(example.history, user_id=example.user_id, quotas=QUOTAS) for _ in range(NUM_CALLS)]
    return answers[-1], statistics.median(answer.timings.total_ns for answer in answers) / 1e6


def _command(console: Console, program: str, *arguments: object) -> None:
    line = [program, *map(str, arguments)]
    _step(console, shlex.join(line))
    executable = sys.executable if program == "python" else str(Path(sys.executable).with_name(program))
    result = subprocess.run([executable, *line[1:]], check=False)
    if result.returncode != 0:
        raise RecGPTError(
            f"the step '{shlex.join(line)}' failed with exit code {result.returncode}; its message is above"
        )


def _step(console: Console, text: str) -> None:
    console.print(f"\n$ {text}", style="bold", soft_wrap=True, highlight=False, markup=False)


def _script(name: str) -> Path:
    path = CHECKOUT / name
    if not path.is_file():
        raise RecGPTError(f"{path} is missing: the demo runs from a checkout of the project, installed with make")
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
