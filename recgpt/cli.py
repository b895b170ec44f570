"""The ``recgpt`` command: train, evaluate, recall, bundle, demo. Errors of ours become one message and exit code 1."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from recgpt.cli_bundle import bundle_app
from recgpt.errors import RecGPTError, RequestError
from recgpt.extras import OPTIONAL, missing
from recgpt.recall_by import RecallBy
from recgpt.tables import show_candidates
from recgpt.types import check_quotas

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="Train, evaluate and query RecGPT."
)
console = Console()

DataFile = Annotated[Path, typer.Option("--data", help="Sequence file (.txt, .xz, .gz) or raw log (.csv, .parquet).")]
UserColumn = Annotated[str | None, typer.Option("--user-column", help="Raw logs: the column of user ids.")]
ItemColumn = Annotated[str | None, typer.Option("--item-column", help="Raw logs: the column of item ids.")]
TimeColumn = Annotated[str | None, typer.Option("--time-column", help="Raw logs: the column of timestamps.")]
ClickedColumn = Annotated[
    str | None, typer.Option("--clicked-column", help="Raw logs of what was shown: the column of 1 = clicked, 0 = not.")
]
MinCount = Annotated[int, typer.Option(help="Raw logs: keep users and items with at least this many interactions.")]


@app.command()
def train(
    data: DataFile,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command goes on where a killed run stopped.")],
    epochs: Annotated[int | None, typer.Option(min=1, help="Upper bound for each stage's epochs.")] = None,
    preset: Annotated[str, typer.Option(help="default, or paper (section 5.1).")] = "default",
    config: Annotated[Path | None, typer.Option(help="TOML file laid over the preset.")] = None,
    user_column: UserColumn = None,
    item_column: ItemColumn = None,
    time_column: TimeColumn = None,
    clicked_column: ClickedColumn = None,
    min_count: MinCount = 5,
) -> None:
    """Pre-trains and prompt-tunes a model; writes OUT/ckpt.pt."""
    from recgpt.config import load_training_config
    from recgpt.data.readers import load_interactions

    recipe = load_training_config(preset, config)
    interactions = load_interactions(
        data, user=user_column, item=item_column, timestamp=time_column, clicked=clicked_column, min_count=min_count
    )
    console.print(
        f"{data}: {interactions.num_users:,} users, {interactions.num_items:,} items, "
        f"{interactions.num_interactions:,} interactions",
        markup=False,
        soft_wrap=True,
    )
    # Imported late: what is wrong with settings or data is said before the seconds that this takes.
    from recgpt.training.trainer import train as run

    checkpoint = run(interactions, recipe, out, data_name=data.name, max_epochs=epochs)
    console.print(f"checkpoint: {checkpoint}", markup=False, soft_wrap=True)


@app.command()
def ensemble(
    checkpoints: Annotated[list[Path], typer.Argument(help="Of one architecture and one data file.")],
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")],
) -> None:
    """Puts several models into one that scores by their mean: better lists, at their cost together."""
    from recgpt.model.checkpoint import load_checkpoint, save_checkpoint
    from recgpt.model.ensemble import ensemble as put_together

    save_checkpoint(out, put_together([load_checkpoint(path) for path in checkpoints]))
    console.print(f"checkpoint: {out}", markup=False, soft_wrap=True)


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="What recgpt train wrote.")],
    data: DataFile,
    json_out: Annotated[Path | None, typer.Option("--json", help="Also write the table as JSON.")] = None,
    quotas: Annotated[list[str] | None, typer.Option(help="Quotas of a row, as in 9,1; may be given again.")] = None,
    user_column: UserColumn = None,
    item_column: ItemColumn = None,
    time_column: TimeColumn = None,
    clicked_column: ClickedColumn = None,
    min_count: MinCount = 5,
) -> None:
    """Hit rate and NDCG on the test split: full ranking, seen items left out, ties against the model."""
    from recgpt.data.readers import load_interactions
    from recgpt.evaluation_report import evaluate_checkpoint, write_report
    from recgpt.model.checkpoint import load_checkpoint

    rows = [(10,), *(_parse_quotas(text) for text in quotas or ("9,1", "8,2"))]
    loaded = load_checkpoint(checkpoint)
    interactions = load_interactions(
        data, user=user_column, item=item_column, timestamp=time_column, clicked=clicked_column, min_count=min_count
    )
    report = evaluate_checkpoint(loaded, interactions, rows, console=console)
    if json_out is not None:
        write_report(report | {"checkpoint": checkpoint.name, "data": data.name}, json_out)


@app.command()
def recall(
    history: Annotated[list[str] | None, typer.Argument(metavar="ITEM...", help="Item ids, oldest first.")] = None,
    _: Annotated[bool, typer.Option("--history", help="The item ids follow, as in --history 12 99 7.")] = False,
    url: Annotated[str | None, typer.Option(help="Triton's gRPC address; without it, in process.")] = None,
    recall_by: Annotated[
        RecallBy | None, typer.Option(help="With --url: who searches for the items; the client unless told otherwise.")
    ] = None,
    bundle: Annotated[Path, typer.Option(help="What export/to_onnx.py wrote.")] = Path("artifacts/bundle"),
    user: Annotated[str | None, typer.Option(help="User id; without it, the shared user vector.")] = None,
    k: Annotated[int, typer.Option(help="How many items.")] = 10,
    quotas: Annotated[str | None, typer.Option(help="Items from each step, as in 9,1.")] = None,
    blocked: Annotated[str | None, typer.Option(help="Item ids never to recall or generate, as in 12,99.")] = None,
    allowed: Annotated[str | None, typer.Option(help="The only item ids to recall, as in 12,99.")] = None,
    items: Annotated[Path | None, typer.Option(help="Table of item names to show.")] = None,
) -> None:
    """Recalls items for a history, from a Triton server or in process."""
    from recgpt.client import RecallClient
    from recgpt.data.names import read_item_names
    from recgpt.engine import Engine
    from recgpt.recall.recaller import Recaller

    if recall_by is not None and url is None:
        raise RequestError(f"--recall-by {recall_by} without --url: in process there is nobody else to recall")
    names = read_item_names(items) if items else {}
    recaller: Recaller = (
        RecallClient(url, bundle=bundle, recall_by=recall_by or RecallBy.CLIENT) if url else Engine.load(bundle)
    )
    with recaller:
        catalogue = recaller.catalogue
        candidates = recaller.recall(
            history=[catalogue.item_ids.parse(text) for text in history or []],
            user_id=None if user is None else catalogue.user_ids.parse(user),
            k=k,
            quotas=_parse_quotas(quotas) if quotas else None,
            blocked=[catalogue.item_ids.parse(text) for text in blocked.split(",")] if blocked else (),
            allowed=None if allowed is None else [catalogue.item_ids.parse(text) for text in allowed.split(",")],
        )
    show_candidates(candidates, names, console)
    console.print(f"{candidates.timings.total_ns / 1e6:.2f} ms")


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="A sequence file; without it, one is generated.")] = None,
    items: Annotated[Path | None, typer.Option(help="Table of item names to show.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Upper bound for each stage's epochs.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything but triton_models/.")] = Path("artifacts"),
) -> None:
    """The whole chain on one machine: train, evaluate, export, serve, recall, measure."""
    from recgpt.demo import run_demo

    run_demo(data=data, items=items, epochs=epochs, out=out, console=console)


app.add_typer(bundle_app, name="bundle")


def main() -> NoReturn:
    """Entry point; turns our errors into a message on stderr and exit code 1."""
    run_script(app)


def run_script(command: typer.Typer) -> NoReturn:
    """Runs a typer application; an error of ours is printed without a traceback and exits with code 1."""
    try:
        with naming_extras():
            command(standalone_mode=True)
    except RecGPTError as error:
        Console(stderr=True, soft_wrap=True).print(f"[red]{type(error).__name__}[/red]: ", end="")
        Console(stderr=True, soft_wrap=True).print(str(error), markup=False, highlight=False)
    raise SystemExit(1)


@contextlib.contextmanager
def naming_extras() -> Iterator[None]:
    """Turns a missing optional package into the error that names its extra; commands import theirs when they run."""
    try:
        yield
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if root not in OPTIONAL:
            raise
        raise missing(root) from error


def _parse_quotas(text: str) -> tuple[int, ...]:
    try:
        quotas = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise RequestError(f"quotas {text!r}: expected whole numbers with commas between them, as in 9,1") from error
    return check_quotas(quotas, sum(quotas))
