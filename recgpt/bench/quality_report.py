"""The quality report in Markdown, made from the JSON of the quality benchmarks alone."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recgpt.bench.ensembles_report import ensemble_parts
from recgpt.bench.horizon import plot_horizon
from recgpt.bench.quality_claims import claim_rows
from recgpt.bench.quality_plots import plot_prompts, plot_quotas
from recgpt.bench.quality_tables import (
    FINISHED,
    METRICS,
    NAMES,
    PAPER,
    RECGPT,
    Report,
    difference,
    headline_rows,
    number,
    own_reports,
    summary_table,
    title,
)
from recgpt.errors import DataError
from recgpt.files import atomic_path
from recgpt.tables import markdown_table

PARTS: Mapping[str, str] = {
    "quality": "benchmarks/recall_quality.py",
    "ensembles": "benchmarks/ensembles.py",
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
bootstrap's 95 %, and where it holds 0 no claim is made. Published results are of single runs unless they say otherwise,
on the same files, ranked in the same way.
"""

_EXPORTED = """\
The engine in ONNX Runtime on the exported graphs, on the test targets; the first seed's model. `same lists`: share of
users with exactly PyTorch's items in its order.
"""

_CLAIMS = """\
Which of the paper's findings hold here. Differences of HR@10; `p` is the bootstrap's. With (9, 1) the first nine items
are the same in one step and in two, so only the tenth can differ: differences between them are small by construction.
"""


_HORIZON = """\
Distance: mean of 1 - cosine over the pairs of a list. Coverage: share of the catalogue that is in some list.
Popularity: how often a listed item occurs in the training data, on average. New items by step: items of the catalogue
that this step was the first to bring into any list.
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
    if not reports:
        raise DataError(f"{results} has no quality_*.json; run {PARTS['quality']} first")
    parts = [
        _HEAD,
        *_summary(reports, ensembles),
        *_headlines(reports),
        *ensemble_parts(ensembles),
        *_claims(reports),
        *_sweeps(reports, results, out),
        *_exported(reports),
    ]
    for path in horizons:
        parts += _horizon(path, out)
    if feedback.is_file():
        parts += _feedback(_read(feedback, {"method", "rows"}))
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
            )
            yield f"Without leaving out items of the history, HR@10 / NDCG@10: {values}."


def _claims(reports: Sequence[Report]) -> Iterator[str]:
    rows = [row for report in reports for row in claim_rows(report)]
    if rows:
        yield "## The paper's findings, measured again"
        yield _CLAIMS
        yield markdown_table(("finding", "data", "paper", "here", "95 %", "p", ""), rows)


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
    for report in swept:
        best = max(report["prompts"], key=lambda row: float(row["validation"]["mean"]["ndcg@10"]))
        quotas = max(report["quotas_sweep"], key=lambda row: float(row["validation"]["mean"]["ndcg@10"]))
        yield (
            f"{title(report)}: best on validation K = {best['num_prompts']} (the paper: 1 to 3) and "
            f"({', '.join(map(str, quotas['quotas']))}) (the paper: (9, 1) and (8, 2))."
        )


def _exported(reports: Sequence[Report]) -> Iterator[str]:
    rows = [
        (title(report), precision, quotas, *(number(found[metric]) for metric in METRICS), _share(found))
        for report in reports
        for precision, of_quotas in report.get("exported", {}).items()
        for quotas, found in of_quotas.items()
        if isinstance(found, Mapping)
    ]
    if rows:
        yield "## After export"
        yield _EXPORTED
        yield markdown_table(("data", "precision", "quotas", *METRICS, "same lists"), rows)


def _share(found: Mapping[str, Any]) -> str:
    return f"{found['identical_lists']:.2%}"


def _horizon(path: Path, out: Path) -> Iterator[str]:
    result = _read(path, {"method", "rows"})
    plot_horizon(path, path.with_suffix(".png"))
    yield f"## What several steps are for: {result['method']['title']}"
    yield _image(path.with_suffix(".png"), out)
    rows = result["rows"]
    k = rows[0]["k"]
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        f"recall@{k}": lambda row: number(row[f"recall@{k}"]),
        "against one step": lambda row: _against(row["against_one_step"]),
        "distance": lambda row: number(row["intra_list_distance"]),
        "coverage": lambda row: number(row["coverage"]),
        "popularity": lambda row: f"{row['mean_popularity']:.1f}",
        "new items by step": lambda row: ", ".join(map(str, row["new_items_by_step"])),
    }
    yield markdown_table(
        ("steps", "quotas", "merge", *columns),
        [
            (str(row["num_interests"]), ",".join(map(str, row["quotas"])), row["merge"])
            + tuple(cell(row) for cell in columns.values())
            for row in rows
        ],
    )
    yield _HORIZON
    yield f"How: {result['method']['text']}"


def _feedback(result: Mapping[str, Any]) -> Iterator[str]:
    counts = result["method"]["parameters"]
    yield f"## {result['method']['title']}"
    yield (
        f"KuaiRand: {counts['num_users']:,} users, {counts['num_items']:,} videos, {counts['num_clicks']:,} clicks, "
        f"{counts['num_unclicked']:,} unclicked; mean and deviation over seeds."
    )
    yield markdown_table(
        ("model", "quotas", "better on validation", *METRICS),
        [
            (row["row"], ",".join(map(str, row["quotas"])), f"{row['num_better']} of {len(row['seeds'])}")
            + tuple(number(row["mean"][metric], row["deviation"][metric]) for metric in METRICS)
            for row in result["rows"]
        ],
    )
    yield f"How: {result['method']['text']}"


def _missing(reports: Sequence[Report], horizons: Sequence[Path], feedback: Path) -> Iterator[str]:
    whole = {report["dataset"] for report in reports if len(report["seeds"]) > 1}
    for dataset in PAPER:
        if dataset not in whole:
            yield f"python {PARTS['quality']} --dataset {dataset} --data FILE"
    if not horizons:
        yield f"python {PARTS['horizon']} --data FILE"
    if not feedback.is_file():
        yield f"python {PARTS['feedback_quality']} --data FILE"


def _against(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else difference(found)


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
