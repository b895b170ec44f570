"""What was found of ensembles of models that were trained in two ways, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recgpt.bench.differences import Tested, judged
from recgpt.bench.quality_tables import ALL_SMOOTHED, PAPER, Report, pair, title
from recgpt.tables import markdown_table

_METRICS = ("hr@10", "ndcg@10")
_BATCHES = ("1", "32")
_TEXT = """\
`recgpt ensemble` of models of the recipe, whose item vectors lean on their neighbours' while training, and of models
without that, and with the next item as the only target (`benchmarks/recipes/unsmoothed/`). Members are the first seeds
of each kind. On test only the ensembles of the second table were looked at; their gains are over all smoothed models,
with 95 % and adjusted p, their times those of a recall in process, with 1 or 32 requests a call on one thread, over a
single model's, in turn in one run; MB are the bundle's.
"""


def ensemble_parts(ensembles: Mapping[str, Report]) -> Iterator[str]:
    """A section with a table of all data sets, and those that were looked at on test; nothing if there is none.

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
    others = [row for result in found for rule, row in result["tested"].items() if rule != ALL_SMOOTHED]
    gains = iter(judged([row["significance"][metric] for row in others for metric in _METRICS]))
    yield markdown_table(
        (
            "test",
            "rule",
            "members",
            "HR@10 / NDCG@10",
            *(f"{metric}, gain" for metric in _METRICS),
            "width",
            *(f"time, {n}" for n in _BATCHES),
            "MB",
        ),
        [
            (title(result), rule, _members(row), pair(row["test"]), *_gains(rule, gains), *_costs(row["costs"]))
            for result in found
            for rule, row in result["tested"].items()
        ],
    )


def _gains(rule: str, gains: Iterator[Tested]) -> tuple[str, ...]:
    """The next gains, unless the rule is the one that the others are compared with."""
    if rule == ALL_SMOOTHED:
        return ("-",) * len(_METRICS)
    return tuple(next(gains).cell for _ in _METRICS)


def _costs(found: Mapping[str, Any]) -> tuple[str, ...]:
    times = (f"{found['times_first'][batch]:.2f}" for batch in _BATCHES)
    return str(found["hidden_size"]), *times, f"{found['bundle_bytes'] / 1e6:.0f}"


def _members(row: Mapping[str, Any]) -> str:
    return f"{row['smoothed']} smoothed, {row['unsmoothed']} unsmoothed"
