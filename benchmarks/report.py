"""Tables and plots of what the benchmarks found, made from their JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recgpt.bench.quality_report import write_quality
from recgpt.bench.report import has_results, write_report
from recgpt.cli import console, run_script
from recgpt.errors import DataError

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="Folder of the JSON files; plots go there.")] = RESULTS,
) -> None:
    """Writes quality.md and performance.md, into docs/ for the repository's own results, else beside the JSON files."""
    has_quality = any(results.glob("quality_*.json"))
    if not has_quality and not has_results(results):
        raise DataError(f"{results} has no results; run benchmarks/recall_quality.py first, or another benchmark")
    folder = DOCS if results == RESULTS else results
    if has_quality:
        missing = write_quality(results, folder / "quality.md")
        console.print(f"wrote {folder / 'quality.md'}", markup=False, soft_wrap=True)
        for command in missing:
            console.print(f"without: {command}", markup=False, soft_wrap=True)
    if has_results(results):
        out = folder / "performance.md"
        written = write_report(results, out)
        console.print(f"wrote {out} of {', '.join(written.found)}", markup=False, soft_wrap=True)
        for name, script in written.missing.items():
            console.print(f"without {name}: run python {script}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    run_script(app)
