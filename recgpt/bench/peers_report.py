"""The section about peers: throughput of everyone, and how many times as fast we are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from recgpt.bench.report_plots import plot_bars
from recgpt.bench.report_sections import Section, any_result, batch_title
from recgpt.bench.results import Result, Row
from recgpt.recall.layout import Layout

OURS = "recgpt"
"""What names of our own rows begin with."""

REPLAY_COMPILED = "RePlay, compiled (1 step)"
"""The row of its compiled model as it comes."""

AGAINST = {
    "RePlay compiled in float32": "ratio_to_replay_float32",
    "RePlay as it comes": "ratio_to_replay",
    "RecTools": "ratio_to_rectools",
    "RecBole": "ratio_to_recbole",
}
"""Each peer's fastest way, and the fact that says how many times as fast a row is."""


def default_rows(result: Result) -> list[Row]:
    """What the engine does unless told otherwise, a row a batch size."""
    return [row for row in result.rows if row.name.startswith(f"{OURS}, {Layout.AUTO}")]


def peers(result: Result, folder: Path) -> Section:
    """A bar a contender, of requests a second: beside the slowest's latency the others' could not be told apart.

    Then a bar a peer: how many times as fast as it we are by default.
    """
    throughput, ratios = folder / f"{result.name}.png", folder / f"{result.name}_ratios.png"
    panels = [
        # Who was the fastest at the floor's parts is in the table.
        (batch_title(batch), {row.name.partition(":")[0]: float(row.facts["throughput"] or 0) for row in rows})
        for batch, rows in result.calls_by_batch().items()
    ]
    plot_bars(panels, throughput, title=result.method["title"], xlabel="requests/s")
    against = [
        (
            batch_title(row.facts["batch"]),
            {name: float(ratio) for name, fact in AGAINST.items() if (ratio := row.facts.get(fact)) is not None},
        )
        for row in default_rows(result)
    ]
    is_there = any(bars for _, bars in against)
    if is_there:
        title = "How many times as fast our two steps are as one step of others"
        plot_bars(against, ratios, title=title, xlabel="times as fast", is_ratio=True)
    return replace(any_result(result, folder), plots=(throughput, *([ratios] if is_there else [])))
