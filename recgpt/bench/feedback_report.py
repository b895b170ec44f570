"""The section of a quality report about real unclicked items, made from its JSON alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from recgpt.bench.differences import COLUMNS, judged
from recgpt.bench.quality_tables import METRICS, number
from recgpt.bench.significance import compare_ranks
from recgpt.tables import markdown_table

# Whose users' ranks are compared with whose.
_PAIRS = (
    ("real unclicked items", "no prompts"),
    ("real unclicked items", "generated prompts"),
    ("real unclicked items", "pre-trained"),
    ("real unclicked items", "real unclicked items, not sent"),
    ("generated prompts", "no prompts"),
    ("no prompts", "pre-trained"),
)
_COMPARED = ("hr@10", "ndcg@10")


def feedback_parts(result: Mapping[str, Any]) -> Iterator[str]:
    """The section, of a JSON of ``benchmarks/feedback_quality.py``."""
    counts = result["method"]["parameters"]
    yield f"## {result['method']['title']}"
    yield (
        f"KuaiRand: {counts['num_users']:,} users, {counts['num_items']:,} videos, {counts['num_clicks']:,} clicks, "
        f"{counts['num_unclicked']:,} unclicked; mean and deviation over seeds."
    )
    yield markdown_table(
        ("model", "quotas", "better on validation", *METRICS),
        [
            (row["row"], _text(row["quotas"]), f"{row['num_better']} of {len(row['seeds'])}")
            + tuple(number(row["mean"][metric], row["deviation"][metric]) for metric in METRICS)
            for row in result["rows"]
        ],
    )
    yield from _differences(result)
    yield f"How: {result['method']['text']}"


def _differences(result: Mapping[str, Any]) -> Iterator[str]:
    ranks = {(row["row"], _text(row["quotas"])): np.array(row["ranks"]) for row in result["rows"]}
    settings, found = [], []
    for system, baseline in _PAIRS:
        for quotas in dict.fromkeys(quotas for _, quotas in ranks):
            compared = compare_ranks(ranks[system, quotas], ranks[baseline, quotas])
            for metric in _COMPARED:
                settings.append((system, baseline, quotas, metric))
                found.append(vars(compared[metric]))
    rows = list(zip(settings, judged(found), strict=True))
    yield markdown_table(
        ("model", "against", "quotas", "metric", *COLUMNS), [(*setting, *tested.cells) for setting, tested in rows]
    )
    said = [
        f"{system} {'better' if tested.sign > 0 else 'worse'} than {baseline} ({quotas}; {metric})"
        for (system, baseline, quotas, metric), tested in rows
        if tested.sign
    ]
    yield f"Beyond noise: {'; '.join(said) if said else 'nothing'}."


def _text(quotas: list[int]) -> str:
    return ",".join(map(str, quotas))
