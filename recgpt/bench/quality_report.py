"""The quality report in Markdown, made from the JSON of the quality benchmarks alone."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recgpt.bench.differences import COLUMNS
from recgpt.bench.ensembles_report import ensemble_parts
from recgpt.bench.feedback_report import feedback_parts
from recgpt.bench.horizon import plot_horizon
from recgpt.bench.horizon_report import horizon_parts
from recgpt.bench.quality_claims import claim_rows, other_rows
from recgpt.bench.quality_plots import plot_prompts, plot_quotas
from recgpt.bench.quality_tables import (
    FINISHED,
    METRICS,
    NAMES,
    PAPER,
    POP,
    RECGPT,
    RECGPT_1,
    Report,
    headline_rows,
    number,
    own_reports,
    summary_table,
    title,
)
from recgpt.bench.recipe_steps_report import recipe_steps_parts
from recgpt.errors import DataError
from recgpt.files import atomic_path
from recgpt.tables import markdown_table

PARTS: Mapping[str, str] = {
    "quality": "benchmarks/recall_quality.py",
    "ensembles": "benchmarks/ensembles.py",
    "recipe_steps": "benchmarks/recipe_steps.py",
    "horizon": "benchmarks/horizon.py",
    "feedback_quality": "benchmarks/feedback_quality.py",
}
"""What the report is made of, and the scripts that measure it."""

_HEAD = """\
# Quality

<!-- All of this file is written by `python benchmarks/report.py` from benchmarks/results/*.json; do not edit it. -->

Leave-one-out: of each user the last item tests, the one before validates, the rest trains. The whole catalogue is
ranked, items of the history left out, ties against the model. Everything was chosen on validation; test targets were
looked at once a finished model. Recipes: `benchmarks/recipes/`. Differences are paired over users; an interval is the
bootstrap's 95 %. p is the bootstrap's too; adjusted, it takes into account how many differences a table holds
(Benjamini and Hochberg), and from .05 on no claim is made. Seeds are averaged by user first, so p says nothing of how a
mean moves with the seeds: the deviations do. Published results are of single runs unless they say otherwise, on the
same files, ranked in the same way; without their lists, differences from them cannot be tested.
"""

_EXPORTED = """\
The engine in ONNX Runtime on the exported graphs, on the test targets; the first seed's model. In brackets what PyTorch
has more or less. `same lists`: share of users with exactly PyTorch's items in its order.
"""

_CLAIMS = """\
Which of the paper's findings hold here. Differences of HR@10. With (9, 1) the first nine items are the same in one step
and in two, so only the tenth can differ: differences between them are small by construction.
"""


def read_reports(results: Path) -> list[Report]:
    """Every report of a folder, with the name of its recipe.

    Raises:
        DataError: one cannot be read.
    """
    return [
        {**_read(path, {"dataset", "metrics", "quotas_sweep"}), "recipe": path.stem.removeprefix("quality_")}
        for path in sorted(results.glob("quality_*.json"))
    ]


def read_ensembles(results: Path) -> dict[str, Report]:
    """What was found of ensembles in a folder, by data set.

    Raises:
        DataError: one cannot be read.
    """
    found = (_read(path, {"dataset", "rows", "tested"}) for path in results.glob("ensembles_*.json"))
    return {result["dataset"]: result for result in found}


def write_quality(results: Path, out: Path) -> tuple[str, ...]:
    """Writes the report and draws its plots.

    Args:
        results: folder of the JSON files; plots go there.
        out: the Markdown file.

    Returns:
        What is missing, as the commands that measure it.

    Raises:
        DataError: a result cannot be read, or there is none.
        OutputError: a file cannot be written.
    """
    reports, ensembles = read_reports(results), read_ensembles(results)
    horizons = sorted(results.glob("horizon_*.json"))
    feedback = results / "feedback_quality.json"
    steps = [_read(path, {"dataset", "rows"}) for path in sorted(results.glob("recipe_steps_*.json"))]
    if not reports:
        raise DataError(f"{results} has no quality_*.json; run {PARTS['quality']} first")
    parts = [
        _HEAD,
        *_summary(reports, ensembles),
        *_headlines(reports),
        *recipe_steps_parts(steps),
        *ensemble_parts(ensembles),
        *_claims(reports),
        *_sweeps(reports, results, out),
        *_exported(reports),
    ]
    for path in horizons:
        parts += _horizon(path, out)
    if feedback.is_file():
        parts += feedback_parts(_read(feedback, {"method", "rows"}))
    missing = tuple(_missing(reports, horizons, feedback))
    if missing:
        parts.append("## Not measured yet\n\n" + "\n".join(f"- `{command}`" for command in missing))
    with atomic_path(out) as temporary:
        temporary.write_text("\n\n".join(part.rstrip() for part in parts) + "\n")
    return missing


def _summary(reports: Sequence[Report], ensembles: Mapping[str, Report]) -> Iterator[str]:
    own = own_reports(reports)
    if not own:
        return
    yield "## In short"
    yield summary_table(own, ensembles)
    above = [
        report["metrics"][FINISHED][metric] > paper
        for report in own
        for metric, paper in zip(METRICS, PAPER[report["dataset"]], strict=True)
    ]
    cells = f"{sum(above)} of {len(above)} cells of HR and NDCG at 5 and 10"
    yield f"`recgpt train` is above the paper's RecGPT in {cells}."


def _headlines(reports: Sequence[Report]) -> Iterator[str]:
    yield "## The four data sets"
    for report in reports:
        seeds = len(report["seeds"])
        yield f"### {title(report)}, {seeds} seed{'s' if seeds > 1 else ''}"
        yield markdown_table(("test", *METRICS), headline_rows(report))
        epochs = report.get("num_epochs", {})
        if FINISHED in epochs:
            kept = sum(map(operator.eq, epochs[FINISHED], epochs[RECGPT]))
            yield f"Stage 2 made the model better on validation for {kept} of {seeds} seed{'s' if seeds > 1 else ''}."
        unmasked = report.get("unmasked", {})
        if unmasked:
            values = ", ".join(
                f"{NAMES[name]} {number(found['hr@10'])} / {number(found['ndcg@10'])}"
                for name, found in unmasked.items()
                if name in (RECGPT, RECGPT_1, FINISHED, POP)
            )
            yield f"Without leaving out items of the history, HR@10 / NDCG@10: {values}."


def _claims(reports: Sequence[Report]) -> Iterator[str]:
    rows = claim_rows(reports)
    if rows:
        yield "## The paper's findings, measured again"
        yield _CLAIMS
        yield markdown_table(("finding", "data", "paper", *COLUMNS, ""), rows)
        yield "All other differences that were tested:"
        yield markdown_table(("what", "data", "metric", *COLUMNS), other_rows(reports))


def _sweeps(reports: Sequence[Report], results: Path, out: Path) -> Iterator[str]:
    swept = [report for report in reports if "prompts" in report]
    for found, draw, name, heading in (
        (swept, plot_prompts, "quality_prompts.png", "Prompts an item in stage 2 (figure 4 of the paper)"),
        (reports, plot_quotas, "quality_quotas.png", "Items from each step (figures 5 and 6 of the paper)"),
    ):
        if found:
            draw(found, results / name)
            yield f"## {heading}"
            yield _image(results / name, out)
    for report in reports:
        quotas = f"({', '.join(map(str, _best(report['quotas_sweep'])['quotas']))}) (the paper: (9, 1) and (8, 2))"
        prompts = f"K = {_best(report['prompts'])['num_prompts']} (the paper: 1 to 3) and " if report in swept else ""
        yield f"{title(report)}: best on validation {prompts}{quotas}."


def _best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return max(rows, key=lambda row: float(row["validation"]["mean"]["ndcg@10"]))


def _exported(reports: Sequence[Report]) -> Iterator[str]:
    rows = [
        (title(report), precision, quotas)
        + tuple(_with_loss(found[metric], reference[metric]) for metric in METRICS)
        + (f"{found['identical_lists']:.2%}",)
        for report in reports
        for precision, of_quotas in report.get("exported", {}).items()
        for quotas, reference in _in_pytorch(report).items()
        for found in (of_quotas[quotas],)
    ]
    if rows:
        yield "## After export"
        yield _EXPORTED
        yield markdown_table(("data", "precision", "quotas", *METRICS, "same lists"), rows)


def _in_pytorch(report: Report) -> dict[str, Mapping[str, float]]:
    """By quotas the metrics of the model that was exported."""
    systems = {"9,1": RECGPT, "10": RECGPT_1}
    by_seed = report.get("by_seed", {system: [report["metrics"][system]] for system in systems.values()})
    return {quotas: by_seed[system][0] for quotas, system in systems.items()}


def _with_loss(value: float, reference: float) -> str:
    return f"{number(value)} ({round(reference, 4) - round(value, 4):+.4f})"


def _horizon(path: Path, out: Path) -> Iterator[str]:
    result = _read(path, {"method", "rows"})
    plot_horizon(path, path.with_suffix(".png"))
    yield f"## What several steps are for: {result['method']['title']}"
    yield _image(path.with_suffix(".png"), out)
    yield from horizon_parts(result)


def _missing(reports: Sequence[Report], horizons: Sequence[Path], feedback: Path) -> Iterator[str]:
    whole = {report["dataset"] for report in reports if len(report["seeds"]) > 1}
    for dataset in PAPER:
        if dataset not in whole:
            yield f"python {PARTS['quality']} --dataset {dataset} --data FILE"
    if not horizons:
        yield f"python {PARTS['horizon']} --data FILE"
    if not feedback.is_file():
        yield f"python {PARTS['feedback_quality']} --data FILE"


def _image(path: Path, out: Path) -> str:
    return f"![{path.stem}]({os.path.relpath(path, out.parent)})"


def _read(path: Path, keys: Iterable[str]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if not set(keys) <= set(found):
            raise ValueError(f"keys {', '.join(found)}")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: expected what a quality benchmark writes: {error}; run it again") from error
    return found
