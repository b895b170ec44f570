"""Results on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from recgpt.bench.results import Fact, Result, Row
from recgpt.bench.stages import STAGES


def show_recall_latency(result: Result, console: Console) -> None:
    """One table a batch size, stages down and contenders across; then what many clients at once saw."""
    for batch, rows in result.calls_by_batch().items():
        print_whole(_latency_table(batch, rows), console)
    if load := [row for row in result.rows if not row.stages_ns]:
        console.print(_load_table(load))


def print_whole(table: Table, console: Console) -> None:
    """Prints a table no column of which is cut, though it be wider than the terminal; an empty line behind it."""
    widest = console.measure(table, options=console.options.update(width=1000)).maximum
    wide = console if widest <= console.width else Console(file=console.file, width=widest)
    wide.print(table, "")


def _latency_table(batch: int, rows: Sequence[Row]) -> Table:
    title = f"{batch} request{'s' if batch != 1 else ''} a call: ms, p50 p90 p99"
    table = Table("", title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_column(row.name, justify="right", no_wrap=True)
    stages = [row.stages_ms for row in rows]
    for stage in STAGES:
        table.add_row(stage, *(_three(found[stage]) if stage in found else "-" for found in stages), style="dim")
    table.add_row("total", *(_three(row.latency_ms) for row in rows), style="bold", end_section=True)
    table.add_row("requests/s", *(f"{row.facts['throughput']:,.0f}" for row in rows))
    table.add_row("times as fast", *(_or_dash(row.facts["ratio_to_eager"], ".2f") for row in rows))
    table.add_row("same lists", *(_or_dash(row.facts["identical_lists"], ".1%") for row in rows), end_section=True)
    return table


def _load_table(rows: Sequence[Row]) -> Table:
    table = Table(title="many clients, 1 request a call", title_justify="left", title_style="bold", box=None)
    for heading in ("", "clients", "ms, p50 p90 p99", "requests/s", "requests a run of the graph"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        joined = float(row.facts["num_inferences"] or 0) / float(row.facts["num_executions"] or 1)
        throughput = f"{row.facts['throughput']:,.0f}"
        table.add_row(row.name, str(row.facts["clients"]), _three(row.latency_ms), throughput, f"{joined:.1f}")
    return table


def _three(percentiles: Mapping[str, float]) -> str:
    return " ".join(f"{significant(value):>4}" for value in percentiles.values())


def significant(value: float) -> str:
    """Three digits: 0.12, 1.23, 12.3, 123."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _or_dash(value: object, form: str) -> str:
    return "-" if value is None else format(value, form)


def show_interests_latency(result: Result, console: Console) -> None:
    """One line a cell, contenders across: medians, and the fused graph's ratios; then what all cells say together."""
    cells: dict[tuple[Fact, ...], list[Row]] = {}
    for row in result.rows:
        cells.setdefault(tuple(row.facts[key] for key in ("batch", "history", "num_interests")), []).append(row)
    table = Table(title="interests: ms, p50", title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    names = [row.name for row in next(iter(cells.values()))]
    for heading in ("batch", "history", "J", *names):
        table.add_column(heading, justify="right")
    for cell, rows in cells.items():
        table.add_row(*map(str, cell), *(significant(row.latency_ms["p50"]) for row in rows))
    console.print(table)
    for name, reason in result.method["missing"].items():
        console.print(f"{name} was not measured: {reason}", markup=False)
    for name, value in result.method["summary"].items():
        console.print(f"{name}: {significant(value)}", markup=False)


def show_kv_cache(result: Result, console: Console) -> None:
    """One line a setting: both medians, and how many times as fast the cache is."""
    headings = ("task", "number", "batch", "max_length", "hidden_size", "num_blocks", "num_items")
    table = Table(title=f"{result.method['title']}: ms, p50", title_justify="left", title_style="bold", box=None)
    for heading in ("task", "J or K", "batch", "C", "d", "blocks", "items", "cached", "recomputed", "ratio"):
        table.add_column(heading, justify="right")
    for cached, recomputed in zip(result.rows[::2], result.rows[1::2], strict=True):
        medians = (significant(row.latency_ms["p50"]) for row in (cached, recomputed))
        ratio = format(float(cached.facts["ratio"] or 0), ".2f")
        table.add_row(*(str(cached.facts[heading]) for heading in headings), *medians, ratio)
    console.print(table)


def show_mixed_lengths(result: Result, console: Console) -> None:
    """One line a way and setting; then what the server did with clients whose histories differ."""
    table = Table(title=result.method["title"], title_justify="left", title_style="bold", box=None)
    for heading in ("", "batch", "J", "ms, p50", "model, ms", "model: times as fast", "same lists"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in (row for row in result.rows if row.stages_ns):
        medians = (row.latency_ms["p50"], row.stages_ms["interests"]["p50"])
        ratios = (_or_dash(row.facts["ratio_to_padded"], ".2f"), _or_dash(row.facts["identical_lists"], ".1%"))
        setting = (str(row.facts["batch"]), str(row.facts["num_interests"]))
        table.add_row(row.name, *setting, *map(significant, medians), *ratios)
    console.print(table, "")
    console.print(_load_table([row for row in result.rows if not row.stages_ns]))


def show_serving_layouts(result: Result, console: Console) -> None:
    """One table of single calls, then one a number of clients; layouts down."""
    groups: dict[tuple[Fact, Fact], list[Row]] = {}
    for row in result.rows:
        groups.setdefault((row.facts["mode"], row.facts["clients"]), []).append(row)
    for (mode, clients), rows in groups.items():
        title = "one call after the other" if mode == "calls" else f"{clients} client(s) at once"
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        for heading in ("", "ms, p50 p90 p99", "over the engine", "times empty", "requests/s", "same lists", "a run"):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for row in rows:
            facts = row.facts
            runs = facts.get("num_executions")
            joined = None if not runs else float(facts["num_inferences"] or 0) / float(runs)
            table.add_row(
                row.name,
                _three(row.latency_ms),
                f"{facts['overhead_ms']:+.2f} ms",
                _or_dash(facts["ratio_to_empty"], ".2f"),
                f"{facts['throughput']:,.0f}",
                _or_dash(facts["identical_lists"], ".1%"),
                _or_dash(joined, ".1f"),
            )
        print_whole(table, console)


MEMORY = ("start", "libraries", "index", "graphs", "recall", "peak")


def memory_rows(result: Result) -> list[list[str]]:
    """The result's memory, a line a process: what it is, items, and megabytes after each stage."""
    return [
        [
            str(found["row"]),
            f"{found['num_items']:,}",
            str(found["num_graphs"]),
            *(f"{found[stage] / 1e6:,.0f}" for stage in MEMORY),
        ]
        for found in result.method["memory"]
    ]


def show_call_threads(result: Result, console: Console) -> None:
    """One line a catalogue, batch and way."""
    table = Table(title=result.method["title"], title_justify="left", title_style="bold", box=None)
    for heading in ("items", "batch", "", "ms, p50 p90 p99", "requests/s", "to one", "same lists"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in result.rows:
        facts = row.facts
        numbers = (f"{facts['throughput']:,.0f}", _or_dash(facts["ratio_to_one"], ".2f"))
        same = _or_dash(facts["identical_lists"], ".1%")
        table.add_row(f"{facts['num_items']:,}", str(facts["batch"]), row.name, _three(row.latency_ms), *numbers, same)
    print_whole(table, console)


MEMORY_HEADING = ("resident MB after", "items", "graphs", *MEMORY)


def show_concurrency(result: Result, console: Console) -> None:
    """One line a number of clients; then memory by stage."""
    table = Table(title=result.method["title"], title_justify="left", title_style="bold", box=None)
    for heading in ("clients", "ms, p50 p90 p99", "requests/s", "to one"):
        table.add_column(heading, justify="right")
    for row in result.rows:
        numbers = (f"{row.facts['throughput']:,.0f}", _or_dash(row.facts["ratio_to_one"], ".2f"))
        table.add_row(str(row.facts["clients"]), _three(row.latency_ms), *numbers)
    console.print(table, "")
    table = Table(*MEMORY_HEADING, box=None)
    for cells in memory_rows(result):
        table.add_row(*cells)
    console.print(table)


def show_precision(result: Result, console: Console) -> None:
    """One line a precision and setting."""
    table = Table(title=result.method["title"], title_justify="left", title_style="bold", box=None)
    for heading in ("", "batch", "history", "ms, p50", "to floor", "MB", "same items", "same lists"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in result.rows:
        num_bytes = row.facts.get("graph_bytes")
        table.add_row(
            row.name,
            str(row.facts["batch"]),
            str(row.facts["history"]),
            significant(row.latency_ms["p50"]),
            _or_dash(row.facts["ratio_to_floor"], ".2f"),
            "-" if num_bytes is None else f"{float(num_bytes) / 1e6:.1f}",
            _or_dash(row.facts.get("identical_items"), ".2%"),
            _or_dash(row.facts.get("identical_lists"), ".2%"),
        )
    console.print(table)


def show_peers(result: Result, console: Console) -> None:
    """One line a contender and batch size: medians by stage, throughput, and how many times as fast as others."""
    stages = ("encode", "interests", "search", "merge")
    ratios = ratio_facts(result)
    table = Table(title=f"{result.method['title']}: ms, p50", title_justify="left", title_style="bold", box=None)
    headings = (heading.removeprefix("ratio_").replace("_", " ") for heading in ratios)
    for heading in ("batch", "", *stages, "total", "requests/s", *headings, "same lists"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for row in result.rows:
        found = row.stages_ms
        medians = (significant(found[stage]["p50"]) if stage in found else "-" for stage in stages)
        total, throughput = significant(row.latency_ms["p50"]), f"{row.facts['throughput']:,.0f}"
        times = (_or_dash(row.facts[name], ".2f") for name in ratios)
        same = _or_dash(row.facts["identical_lists"], ".1%")
        table.add_row(str(row.facts["batch"]), row.name, *medians, total, throughput, *times, same)
    print_whole(table, console)
    for name, reason in result.method["missing"].items():
        console.print(f"{name} was not measured: {reason}", markup=False)


def ratio_facts(result: Result) -> list[str]:
    """Names of the facts that are ratios and exist in some row, in their order."""
    names = dict.fromkeys(name for row in result.rows for name, value in row.facts.items() if value is not None)
    return [name for name in names if name.startswith("ratio_")]


def show_item_search(result: Result, console: Console) -> None:
    """One line a setting, ways across: medians, and the used way's ratio to Faiss."""
    cells: dict[tuple[Fact, ...], list[Row]] = {}
    for row in result.rows:
        cells.setdefault(tuple(row.facts[key] for key in ("num_items", "num_queries", "k")), []).append(row)
    table = Table(title=f"{result.method['title']}: ms, p50", title_justify="left", title_style="bold", box=None)
    names = [row.name for row in next(iter(cells.values()))]
    for heading in ("items", "queries", "k", *names, "times as fast as Faiss"):
        table.add_column(heading, justify="right")
    for cell, rows in cells.items():
        medians = (significant(row.latency_ms["p50"]) for row in rows)
        table.add_row(*map(str, cell), *medians, f"{rows[-1].facts['ratio_to_faiss']:.2f}")
    console.print(table)
