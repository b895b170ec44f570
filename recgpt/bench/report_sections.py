"""One function a benchmark: its result in, plots drawn, tables and findings out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import geometric_mean

from recgpt.bench.call_threads import ONE
from recgpt.bench.mixed_lengths import PADDED, PARTS
from recgpt.bench.plots import plot_recall_latency
from recgpt.bench.report_plots import Panel, plot_bars, plot_lines
from recgpt.bench.results import Fact, Result, Row
from recgpt.bench.tables import MEMORY_HEADING, memory_rows, significant
from recgpt.tables import markdown_table

FLOOR = "floor"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report.

    Attributes:
        title: its heading.
        result: what it is about.
        plots: files that were drawn.
        tables: Markdown.
        notes: what is to be known of the tables beside the method, a sentence each.
    """

    title: str
    result: Result
    plots: tuple[Path, ...] = ()
    tables: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Render = Callable[[Result, Path], Section]
"""A result, and the folder for its plots, to a section."""


def any_result(result: Result, folder: Path) -> Section:
    """A table of all rows, and latency over the size of the catalogue where that varies."""
    plots = []
    if len({row.facts.get("num_items") for row in result.rows} - {None}) > 1:
        plots.append(folder / f"{result.name}.png")
        by_batch = grouped(result.rows, "batch")
        panels = [
            Panel(title=batch_title(batch), series=_points(rows, "num_items")) for batch, rows in by_batch.items()
        ]
        plot_lines(panels, plots[0], title=result.method["title"], xlabel="items", ylabel="ms, p50")
    return Section(
        title=result.method["title"],
        result=result,
        plots=tuple(plots),
        tables=(facts_table(result.rows),),
    )


def recall_latency(result: Result, folder: Path) -> Section:
    """Latency by stage, ratios to PyTorch, throughput of calls and of many clients."""
    stages, rates = folder / "recall_latency.png", folder / "recall_throughput.png"
    plot_recall_latency(result, stages)
    groups = result.calls_by_batch()
    panels = [
        (batch_title(batch), {row.name: float(row.facts["throughput"] or 0) for row in rows})
        for batch, rows in groups.items()
    ]
    plot_bars(panels, rates, title=f"{result.method['title']}: throughput", xlabel="requests/s")
    calls = [row for rows in groups.values() for row in rows]
    loads = [row for row in result.rows if not row.stages_ns]
    tables = [facts_table(rows) for rows in (calls, loads) if rows]
    return Section(
        title=result.method["title"],
        result=result,
        plots=(stages, rates),
        tables=tuple(tables),
    )


def interests_latency(result: Result, folder: Path) -> Section:
    """Latency by history and by J, and ratios to the floor and to PyTorch."""
    shortest = min(_numbers(result.rows, "history"))
    fewest = min(_numbers(result.rows, "num_interests"))
    by_history, by_number, ratios = (
        folder / f"interests_{name}.png" for name in ("by_history", "by_number", "ratio_to_floor")
    )
    drawn = _with_one_floor(result.rows)
    short = [row for row in drawn if row.facts["history"] == shortest]
    few = [row for row in drawn if row.facts["num_interests"] == fewest]
    for rows, axis, label, target in (
        (few, "history", "items in the history", by_history),
        (short, "num_interests", "J, interests", by_number),
    ):
        panels = [
            Panel(title=batch_title(batch), series=_points(group, axis))
            for batch, group in grouped(rows, "batch").items()
        ]
        plot_lines(panels, target, title=f"{result.method['title']}, by {label}", xlabel=label, ylabel="ms, p50")
    means = _mean_facts(result.rows, ("ratio_to_eager", "ratio_to_floor"))
    over = {name: facts["ratio_to_floor"] for name, facts in means.items() if not name.startswith(FLOOR)}
    title = "Geometric mean over all settings"
    plot_bars([(title, over)], ratios, title="How many times the floor", xlabel="times the fastest dense product")
    body = [(name, *(significant(value) for value in facts.values())) for name, facts in means.items()]
    table = markdown_table(("geometric means over all settings", "times as fast as PyTorch", "times the floor"), body)
    return Section(
        title=result.method["title"],
        result=result,
        plots=(by_history, by_number, ratios),
        tables=(table, facts_table(result.rows)),
    )


def kv_cache(result: Result, folder: Path) -> Section:
    """Where the cache pays: over steps and prompts, then over each size alone."""
    steps, sizes = folder / "kv_cache.png", folder / "kv_cache_sizes.png"
    base = result.method["parameters"]["base"]
    varying = {"max_length": "C", "hidden_size": "d", "num_blocks": "blocks", "num_items": "items"}
    plain = [row for row in result.rows if all(row.facts[name] == base[name] for name in varying)]
    panels = [
        Panel(
            title="J, interests" if task == "interests" else "K, prompts an item",
            series={
                f"batch {batch}": _ratios(rows, "number", "ratio") for batch, rows in grouped(group, "batch").items()
            },
        )
        for task, group in grouped(plain, "task").items()
    ]
    ylabel = "times as fast as recomputing"
    plot_lines(panels, steps, title=result.method["title"], xlabel="", ylabel=ylabel, is_log=False)
    panels = [
        Panel(title=label, series={"J = 6, batch 32": _ratios(_one_changed(result.rows, base, name), name, "ratio")})
        for name, label in varying.items()
    ]
    plot_lines(panels, sizes, title=f"{result.method['title']}, by size", xlabel="", ylabel=ylabel, is_log=False)
    return Section(
        title=result.method["title"],
        result=result,
        plots=(steps, sizes),
        tables=(facts_table(result.rows),),
    )


def item_search(result: Result, folder: Path) -> Section:
    """How many times as fast as Faiss each way is for the shortest lists, over queries a call, a panel a catalogue."""
    target = folder / f"{result.name}.png"
    shortest = min(_numbers(result.rows, "k"))
    panels = [
        Panel(
            title=f"{num_items:,} items",
            series={
                str(name): _ratios(found, "num_queries", "ratio_to_faiss")
                for name, found in grouped(rows, None).items()
            },
        )
        for num_items, rows in grouped((row for row in result.rows if row.facts["k"] == shortest), "num_items").items()
    ]
    title = f"{result.method['title']}, k = {shortest:g}"
    plot_lines(panels, target, title=title, xlabel="queries a call", ylabel="times as fast as Faiss flat")
    return Section(title=result.method["title"], result=result, plots=(target,), tables=(facts_table(result.rows),))


def mixed_lengths(result: Result, folder: Path) -> Section:
    """Ratios of the model's stage to the padded batch, and how many requests a server runs together."""
    target = folder / "mixed_lengths.png"
    calls = [row for row in result.rows if row.stages_ns]
    panels = [
        (
            f"{batch_title(int(batch or 0))}",
            {
                f"{row.name}, J = {row.facts['num_interests']}": row.stages_ms["interests"]["p50"]
                for row in rows
                if row.name in (PADDED, PARTS)
            },
        )
        for batch, rows in grouped(calls, "batch").items()
    ]
    plot_bars(panels, target, title=result.method["title"], xlabel="ms in the model, p50")
    loads = [row for row in result.rows if not row.stages_ns]
    return Section(
        title=result.method["title"],
        result=result,
        plots=(target,),
        tables=tuple(facts_table(rows) for rows in (calls, loads) if rows),
    )


def concurrency(result: Result, folder: Path) -> Section:
    """Throughput over client threads, and memory by stage."""
    target = folder / "concurrency.png"
    series = {
        "engine": [(float(row.facts["clients"] or 0), float(row.facts["throughput"] or 0)) for row in result.rows]
    }
    panels = [Panel(title="", series=series)]
    plot_lines(panels, target, title=result.method["title"], xlabel="client threads", ylabel="requests/s", is_log=False)
    memory = markdown_table(MEMORY_HEADING, memory_rows(result))
    return Section(
        title=result.method["title"], result=result, plots=(target,), tables=(facts_table(result.rows), memory)
    )


def call_threads(result: Result, folder: Path) -> Section:
    """How many times as fast as one thread, by batch and size of the catalogue."""
    target = folder / "call_threads.png"
    panels = [
        Panel(
            title=f"{num_items:,} items",
            series={
                str(name): _ratios(found, "batch", "ratio_to_one")
                for name, found in grouped((row for row in rows if row.name != ONE), None).items()
            },
        )
        for num_items, rows in grouped(result.rows, "num_items").items()
    ]
    title = f"{result.method['title']}: {result.rows[0].facts['num_threads']} of them"
    plot_lines(panels, target, title=title, xlabel="requests a call", ylabel="times as fast as one", is_log=False)
    return Section(title=result.method["title"], result=result, plots=(target,), tables=(facts_table(result.rows),))


def _with_one_floor(rows: Iterable[Row]) -> list[Row]:
    """Of the floors of a setting only the lowest, under one name."""
    return [
        replace(row, name=FLOOR) if row.name.startswith(FLOOR) else row
        for row in rows
        if not row.name.startswith(FLOOR) or row.facts["ratio_to_floor"] == 1.0
    ]


def facts_table(rows: Sequence[Row]) -> str:
    """All facts that exist, percentiles, and medians of stages."""
    names = list(dict.fromkeys(key for row in rows for key, value in row.facts.items() if value is not None))
    stages = list(dict.fromkeys(stage for row in rows for stage in row.stages_ns))
    heading = ("", *(name.replace("_", " ") for name in names), "p50 ms", "p90 ms", "p99 ms", *stages)
    body = [
        (
            row.name,
            *(_cell(name, row.facts.get(name)) for name in names),
            *map(significant, row.latency_ms.values()),
            *(significant(row.stages_ms[stage]["p50"]) if stage in row.stages_ns else "-" for stage in stages),
        )
        for row in rows
    ]
    return markdown_table(heading, body)


def _cell(name: str, value: Fact) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else value
    if name.startswith("identical"):
        return f"{value:.1%}"
    return significant(value) if value >= 0.1 or value == 0 else f"{value:.1e}"


def _mean_facts(rows: Iterable[Row], names: Sequence[str]) -> dict[str, dict[str, float]]:
    by_name = grouped(rows, None)
    return {
        str(name): {fact: geometric_mean(float(row.facts[fact] or 0) for row in group) for fact in names}
        for name, group in by_name.items()
    }


def _points(rows: Iterable[Row], axis: str) -> Mapping[str, Sequence[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        found[row.name].append((float(row.facts.get(axis) or 0), row.latency_ms["p50"]))
    return found


def _ratios(rows: Iterable[Row], axis: str, ratio: str) -> list[tuple[float, float]]:
    return sorted({(float(row.facts[axis] or 0), float(row.facts[ratio] or 0)) for row in rows})


def _one_changed(rows: Iterable[Row], base: Mapping[str, Fact], name: str) -> list[Row]:
    return [row for row in rows if all(row.facts[key] == value for key, value in base.items() if key != name)]


def _numbers(rows: Iterable[Row], fact: str) -> list[float]:
    return [float(row.facts[fact] or 0) for row in rows]


def grouped(rows: Iterable[Row], fact: str | None) -> dict[Fact, list[Row]]:
    """Rows by a fact, or by their names."""
    groups: dict[Fact, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.name if fact is None else row.facts.get(fact)].append(row)
    return groups


def batch_title(batch: Fact) -> str:
    """Heading of what was measured with that many requests at once; of everything for None."""
    if batch is None:
        return "all rows"
    return f"{batch} request{'s' if batch != 1 else ''} a call"
