"""The section about precisions: speed and size of each, and what the lists of its export are worth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from recgpt.bench.quality_tables import Report, pair
from recgpt.bench.report_sections import Section, any_result, facts_table
from recgpt.bench.results import Result

QUALITY = "quality_beauty.json"
"""What says how good each precision is after export; lies beside the result."""

# As the benchmark: two interests.
_QUOTAS = "9,1"


def precision(result: Result, folder: Path) -> Section:
    """A table of all rows, with the quality of each precision where it was measured."""
    section, path = any_result(result, folder), folder / QUALITY
    if not path.is_file():
        return section
    report: Report = json.loads(path.read_text())
    exported = report["exported"]
    rows = [
        replace(row, facts={**row.facts, "HR@10 / NDCG@10": pair(exported[row.name][_QUOTAS])})
        if row.name in exported
        else row
        for row in result.rows
    ]
    note = (
        f"HR@10 / NDCG@10: after export in this precision, quotas {_QUOTAS}, on the test users of "
        f"{str(report['dataset']).capitalize()}; of the model of the quality report, of width "
        f"{report['config']['model']['hidden_size']}, not of the one that is timed."
    )
    return replace(section, tables=(facts_table(rows),), notes=(note,))
