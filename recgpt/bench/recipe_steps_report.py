"""The section of a quality report about the steps of the recipe, made from its JSON alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from recgpt.bench.differences import COLUMNS, judged
from recgpt.bench.quality_tables import Report, number, title
from recgpt.tables import markdown_table

_METRICS = ("hr@10", "ndcg@10")
_TEXT = """\
Models after stage 1 in one step, by recipes that differ by one thing from the one before, each with the epochs that are
best for it on validation (`benchmarks/recipes/unsmoothed/`, `next_item/`, and the recipes themselves).
"""


def recipe_steps_parts(reports: Sequence[Report]) -> Iterator[str]:
    """The section; nothing if there is no report.

    Args:
        reports: what ``benchmarks/recipe_steps.py`` wrote, one a data set.
    """
    if not reports:
        return
    yield "## What the last steps of the recipe brought"
    yield _TEXT
    yield markdown_table(
        ("recipe", "data", *(f"{metric}, {stage}" for stage in ("validation", "test") for metric in _METRICS)),
        [
            (row["row"], title(report))
            + tuple(
                number(row[stage]["mean"][metric], row[stage].get("deviation", {}).get(metric))
                for stage in ("validation", "test")
                for metric in _METRICS
            )
            for report in reports
            for row in report["rows"]
        ],
    )
    found = [
        (row["row"], title(report), metric, row["against"][metric])
        for report in reports
        for row in report["rows"]
        if row["against"]
        for metric in _METRICS
    ]
    yield markdown_table(
        ("test, against the recipe before", "data", "metric", *COLUMNS),
        [
            (*setting, *tested.cells)
            for (*setting, _), tested in zip(found, judged([ours for *_, ours in found]), strict=True)
        ],
    )
