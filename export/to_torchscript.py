"""Exports a checkpoint to a bundle of TorchScript graphs and checks it against PyTorch.

python export/to_torchscript.py ckpt.pt [--out BUNDLE]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recgpt.cli import console, run_script
from recgpt.graphs.export import TORCHSCRIPT, export_bundle
from recgpt.model.checkpoint import load_checkpoint
from recgpt.tables import show_parity

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def to_torchscript(
    checkpoint: Annotated[Path, typer.Argument(help="What recgpt train wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")] = Path("artifacts/torchscript"),
) -> None:
    """Exports CHECKPOINT to TorchScript and checks parity with PyTorch."""
    report = export_bundle(load_checkpoint(checkpoint), out, TORCHSCRIPT, say=console.print)
    show_parity(report.rows(), console)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_script(app)
