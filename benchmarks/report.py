"""Tables and plots of what the benchmarks found, made from their JSON alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recgpt.bench.quality_plots import plot_prompts, plot_quotas
from recgpt.bench.quality_tables import METRICS, headline_rows
from recgpt.bench.report import has_results, write_report
from recgpt.cli import console, run_script
from recgpt.errors import DataError
from recgpt.tables import markdown_table

RESULTS = Path(__file__).parent / "results"
PERFORMANCE = Path(__file__).parents[1] / "docs" / "performance.md"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="Folder of the JSON files; plots go there.")] = RESULTS,
    out: Annotated[
        Path | None, typer.Option(help="Markdown to write; else docs/performance.md, or into the folder of results.")
    ] = None,
) -> None:
    """Writes the performance report, draws quality by prompts and by quotas, and prints quality in Markdown."""
    quality = [_read(path) for path in sorted(results.glob("quality_*.json"))]
    for found in quality:
        heading = (f"{found['dataset']}, {len(found['seeds'])} seed(s)", *METRICS)
        print(markdown_table(heading, headline_rows(found)), end="\n\n")
    if swept := [found for found in quality if "prompts" in found]:
        plot_prompts(swept, results / "quality_prompts.png")
    if quality:
        plot_quotas(quality, results / "quality_quotas.png")
        console.print(f"drew quality_*.png in {results}", markup=False, soft_wrap=True)
    elif not has_results(results):
        raise DataError(f"{results} has no results; run benchmarks/recall_quality.py first, or another benchmark")
    if has_results(results):
        out = out or (PERFORMANCE if results == RESULTS else results / PERFORMANCE.name)
        written = write_report(results, out)
        console.print(f"wrote {out} of {', '.join(written.found)}", markup=False, soft_wrap=True)
        for name, script in written.missing.items():
            console.print(f"without {name}: run python {script}", markup=False, soft_wrap=True)


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
