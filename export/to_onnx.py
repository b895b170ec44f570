"""Exports a checkpoint to a bundle of ONNX graphs, checks it against PyTorch, and fills triton_models/.

python export/to_onnx.py ckpt.pt [--out BUNDLE]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recgpt.cli import console, run_script
from recgpt.graphs.export import export_bundle, onnx_format
from recgpt.graphs.onnx_writer import Precision
from recgpt.model.checkpoint import load_checkpoint
from recgpt.recall.index_ann import IndexKind
from recgpt.tables import show_parity

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
REPOSITORY = Path(__file__).resolve().parents[1] / "triton_models"


@app.command()
def to_onnx(
    checkpoint: Annotated[Path, typer.Argument(help="What recgpt train wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")] = Path("artifacts/bundle"),
    model_repository: Annotated[Path, typer.Option(help="Triton's model repository.")] = REPOSITORY,
    evaluation: Annotated[
        Path | None, typer.Option(help="What recgpt evaluate --json wrote, for the model card.")
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="int8: the next item is looked for in 8 bits, then scored exactly. float32: all items are scored. "
            "float16: the same from tables of half the size."
        ),
    ] = Precision.INT8,
    index: Annotated[
        IndexKind | None,
        typer.Option(
            help="How recall searches: flat is exact, the others find most; else flat to half a million items."
        ),
    ] = None,
) -> None:
    """Exports CHECKPOINT to ONNX, checks parity with PyTorch, and fills the Triton model repository."""
    report = export_bundle(
        load_checkpoint(checkpoint),
        out,
        onnx_format(precision),
        model_repository=model_repository,
        evaluation=evaluation,
        index_kind=index,
        say=console.print,
    )
    show_parity(report.rows(), console)
    console.print(f"wrote {out} and {model_repository}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_script(app)
