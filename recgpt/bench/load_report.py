"""What the load benchmark says: highest rates, bars, latency over the offered rate; made from its rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recgpt.bench.load_rows import LIMIT_MS, OFFLINE, ONE, SERVER, STAGES
from recgpt.bench.rate_search import Bracket
from recgpt.bench.report_plots import Panel, plot_lines
from recgpt.bench.report_sections import Section, facts_table
from recgpt.bench.results import Fact, Result, Row
from recgpt.bench.tables import print_whole, significant
from recgpt.tables import markdown_table

_HIGHEST = (
    "items",
    "layout",
    "requests/s",
    "missed at",
    "p50 ms",
    "p90 ms",
    "p99 ms",
    "offline/s",
    "same lists",
    "own",
)
_BARS = ("bar", "items", "limit", "by", "reached ms", "met")


def highest_fact(name: str, num_items: int, bracket: Bracket, rows: Sequence[Row]) -> dict[str, Fact]:
    """A layout's highest rate with its latencies, and its throughput offline; rates are None where none was found."""
    at_best = min(
        (row for row in rows if row.facts["mode"] == SERVER and row.facts["rate"] == bracket.met),
        key=lambda row: float(row.facts["p99_ms"] or 0),
        default=None,
    )
    offline = next((row for row in rows if row.facts["mode"] == OFFLINE), None)
    shown = ("p50_ms", "p90_ms", "p99_ms", "identical_lists", "own_lists", *(f"{stage}_ms" for stage in STAGES))
    return {
        "num_items": num_items,
        "layout": name,
        "met": bracket.met,
        "failed": bracket.failed,
        **{fact: None if at_best is None else at_best.facts[fact] for fact in shown},
        "offline": None if offline is None else offline.facts["throughput"],
    }


def serving_load(result: Result, folder: Path) -> Section:
    """p99 over the offered rate, a panel a catalogue; highest rates; bars; stages; every run."""
    target = folder / "serving_load.png"
    panels = _panels(result)
    if panels:
        plot_lines(panels, target, title=result.method["title"], xlabel="requests/s offered", ylabel="ms, p99")
    by_mode = {mode: [row for row in result.rows if row.facts["mode"] == mode] for mode in _modes(result.rows)}
    return Section(
        title=result.method["title"],
        result=result,
        plots=(target,) if panels else (),
        tables=(
            markdown_table(_BARS, bar_cells(result.method["bars"])),
            markdown_table(_HIGHEST, highest_cells(result.method["highest"])),
            markdown_table(("items", "layout", *STAGES), stage_cells(result.method["highest"])),
            *(facts_table([_without_percentiles(row) for row in rows]) for rows in by_mode.values()),
        ),
    )


def highest_cells(highest: Sequence[Mapping[str, Fact]]) -> list[list[str]]:
    """Cells of the table of highest rates, a line a catalogue and layout."""
    numbers = ("met", "failed", "p50_ms", "p90_ms", "p99_ms", "offline")
    shares = ("identical_lists", "own_lists")
    return [
        [
            f"{found['num_items']:,}",
            str(found["layout"]),
            *(_number(found[name]) for name in numbers),
            *("-" if found[name] is None else f"{float(found[name] or 0):.1%}" for name in shares),
        ]
        for found in highest
    ]


def stage_cells(highest: Sequence[Mapping[str, Fact]]) -> list[list[str]]:
    """Mean milliseconds of each stage at the highest rate."""
    return [
        [f"{found['num_items']:,}", str(found["layout"]), *(_number(found[f"{stage}_ms"]) for stage in STAGES)]
        for found in highest
    ]


def bar_cells(bars: Sequence[Mapping[str, Fact]]) -> list[list[str]]:
    """Cells of the table of bars."""
    return [
        [
            str(bar["bar"]),
            f"{bar['num_items']:,}",
            str(bar["limit"]),
            str(bar["layout"] or "-"),
            _number(bar["reached_ms"]),
            "yes" if bar["is_met"] else "no",
        ]
        for bar in bars
    ]


def show_serving_load(result: Result, console: Console) -> None:
    """Bars, highest rates, stages at them, and single calls."""
    bars, highest = result.method["bars"], result.method["highest"]
    calls = [
        [f"{row.facts['num_items']:,}", row.name, *map(significant, row.latency_ms.values()), overhead]
        for row in result.rows
        if row.facts["mode"] == ONE
        for overhead in (f"{row.facts['overhead_ms']:+.2f}",)
    ]
    for title, heading, body in (
        ("bars", _BARS, bar_cells(bars)),
        (f"highest rate with p99 <= {LIMIT_MS:g} ms", _HIGHEST, highest_cells(highest)),
        ("there, mean ms by stage", ("items", "layout", *STAGES), stage_cells(highest)),
        ("one request", ("items", "", "p50 ms", "p90 ms", "p99 ms", "over the engine"), calls),
    ):
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        for name in heading:
            table.add_column(name, no_wrap=True)
        for cells in body:
            table.add_row(*cells)
        print_whole(table, console)


def _panels(result: Result) -> list[Panel]:
    """The better run of each rate of the ladder, and the limit; the rates between would crowd each other."""
    ladder = result.method["parameters"]["effort"]["ladder"]
    runs = [row for row in result.rows if row.facts["mode"] == SERVER and row.facts["rate"] in ladder]
    panels = []
    for num_items in dict.fromkeys(row.facts["num_items"] for row in runs):
        best: dict[str, dict[float, float]] = {}
        for row in runs:
            if row.facts["num_items"] == num_items:
                points, rate = best.setdefault(row.name, {}), float(row.facts["rate"] or 0)
                points[rate] = min(float(row.facts["p99_ms"] or 0), points.get(rate, inf))
        rates = sorted({rate for points in best.values() for rate in points})
        series = {name: list(points.items()) for name, points in best.items()}
        series["limit"] = [(rates[0], LIMIT_MS), (rates[-1], LIMIT_MS)]
        panels.append(Panel(title=f"{num_items:,} items", series=series))
    return panels


def _without_percentiles(row: Row) -> Row:
    """A table of rows has columns of its own for them."""
    own = {f"{name}_ms" for name in row.latency_ms}
    return replace(row, facts={name: value for name, value in row.facts.items() if name not in own})


def _modes(rows: Sequence[Row]) -> list[Fact]:
    return list(dict.fromkeys(row.facts["mode"] for row in rows))


def _number(value: Fact) -> str:
    return "-" if value is None else significant(float(value))
