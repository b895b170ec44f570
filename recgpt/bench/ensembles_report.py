"""What was found of ensembles of models that were trained in two ways, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recgpt.bench.quality_tables import PAPER, Report, difference, pair, title
from recgpt.tables import markdown_table

_TEXT = """\
`recgpt ensemble` of models of the recipe, whose item vectors lean on their neighbours' while training, and of models
without that (`benchmarks/recipes/unsmoothed/`). Members are the first seeds of each kind. The mix was chosen on
validation; on test only it and the ensemble of all smoothed models were looked at.
"""


def ensemble_parts(ensembles: Mapping[str, Report]) -> Iterator[str]:
    """A section with a table of all data sets, and what the chosen mix of each is worth; nothing if there is none.

    Args:
        ensembles: what ``benchmarks/ensembles.py`` wrote, by data set.
    """
    found = [ensembles[dataset] for dataset in PAPER if dataset in ensembles]
    if not found:
        return
    yield "## Ensembles of models that were trained in two ways"
    yield _TEXT
    by_members = [{_members(row): pair(row["validation"]) for row in result["rows"]} for result in found]
    yield markdown_table(
        ("validation, HR@10 / NDCG@10", *map(title, found)),
        [(members, *(cells.get(members, "-") for cells in by_members)) for members in by_members[0]],
    )
    yield markdown_table(
        ("test", "members", "HR@10 / NDCG@10"),
        [
            (title(result), _members(row), pair(row["test"]))
            for result in found
            for row in (result["baseline"], result["chosen"])
        ],
    )
    for result in found:
        differences = (f"{metric} {difference(result['significance'][metric])}" for metric in ("hr@10", "ndcg@10"))
        yield f"{title(result)}, the second against the first: {', '.join(differences)}."


def _members(row: Mapping[str, Any]) -> str:
    return f"{row['smoothed']} smoothed, {row['unsmoothed']} unsmoothed"
