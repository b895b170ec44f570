"""Tables and plots of what the benchmarks found, made from their JSON alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recgpt.bench.quality_plots import plot_prompts, plot_quotas
from recgpt.bench.quality_tables import METRICS, headline_rows
from recgpt.cli import console, run_script
from recgpt.errors import DataError
from recgpt.tables import markdown_table

RESULTS = Path(__file__).parent / "results"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def report(results: Annotated[Path, typer.Option(help="Folder of the JSON files; plots go there.")] = RESULTS) -> None:
    """Draws quality by prompts and by quotas, and prints the headline tables in Markdown."""
    reports = [_read(path) for path in sorted(results.glob("quality_*.json"))]
    if not reports:
        raise DataError(f"{results} has no quality_*.json; run benchmarks/recall_quality.py first")
    for found in reports:
        heading = (f"{found['dataset']}, {len(found['seeds'])} seed(s)", *METRICS)
        print(markdown_table(heading, headline_rows(found)), end="\n\n")
    if swept := [found for found in reports if "prompts" in found]:
        plot_prompts(swept, results / "quality_prompts.png")
    plot_quotas(reports, results / "quality_quotas.png")
    console.print(f"drew quality_*.png in {results}", markup=False, soft_wrap=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if not {"dataset", "metrics", "quotas_sweep"} <= set(found):
            raise ValueError(f"keys {', '.join(found)}")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: expected what benchmarks/recall_quality.py writes: {error}") from error
    return found


if __name__ == "__main__":
    run_script(app)
