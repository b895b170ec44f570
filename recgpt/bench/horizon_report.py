"""The section of a quality report about lists of several steps, made from its JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from recgpt.bench.differences import Tested, judged
from recgpt.bench.quality_tables import number
from recgpt.tables import markdown_table

_TEXT = """\
Distance: mean of 1 - cosine over the pairs of a list. Coverage: share of the catalogue that is in some list.
Popularity: how often a listed item occurs in the training data, on average. New items by step: items of the catalogue
that this step was the first to bring into any list. Differences are in recall, with the bootstrap's 95 % and p,
adjusted for the number of differences in the column.
"""

Rows = Sequence[Mapping[str, Any]]


def horizon_parts(result: Mapping[str, Any]) -> Iterator[str]:
    """What follows the heading and the plot, of a JSON of ``benchmarks/horizon.py``."""
    rows = result["rows"]
    recall = f"recall@{rows[0]['k']}"
    one_step, quotas = _judged(rows, "against_one_step"), _judged(rows, "against_quotas")
    columns: dict[str, Callable[[int, Mapping[str, Any]], str]] = {
        recall: lambda _, row: number(row[recall]),
        "against one step": lambda place, _: _cell(one_step.get(place)),
        "against quotas": lambda place, _: _cell(quotas.get(place)),
        "distance": lambda _, row: number(row["intra_list_distance"]),
        "coverage": lambda _, row: number(row["coverage"]),
        "popularity": lambda _, row: f"{row['mean_popularity']:.1f}",
        "new items by step": lambda _, row: ", ".join(map(str, row["new_items_by_step"])),
    }
    yield markdown_table(
        ("steps", "quotas", "merge", *columns),
        [
            (str(row["num_interests"]), ",".join(map(str, row["quotas"])), row["merge"])
            + tuple(cell(place, row) for cell in columns.values())
            for place, row in enumerate(rows)
        ],
    )
    yield f"More than one step finds, beyond noise: {_named(rows, one_step, 1)}; less: {_named(rows, one_step, -1)}."
    yield f"More than quotas find, beyond noise: {_named(rows, quotas, 1)}; less: {_named(rows, quotas, -1)}."
    yield _TEXT
    yield f"How: {result['method']['text']}"


def _judged(rows: Rows, column: str) -> dict[int, Tested]:
    """The differences of a column, by the place of their row."""
    places = [place for place, row in enumerate(rows) if row[column] is not None]
    return dict(zip(places, judged([rows[place][column] for place in places]), strict=True))


def _cell(tested: Tested | None) -> str:
    return "-" if tested is None else tested.cell


def _named(rows: Rows, found: Mapping[int, Tested], sign: int) -> str:
    named = [
        f"{rows[place]['merge']} ({','.join(map(str, rows[place]['quotas']))})"
        for place, tested in found.items()
        if tested.sign == sign
    ]
    return ", ".join(named) or "none"
