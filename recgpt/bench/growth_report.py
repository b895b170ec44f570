"""What a benchmark of growing catalogues says: table, plot, and from where on which layout is the faster one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from recgpt.bench.growth import REFERENCE, WAYS, Way
from recgpt.bench.plots import FAINT, INK, save_figure
from recgpt.bench.report_sections import Section, facts_table
from recgpt.bench.results import Result, Row
from recgpt.bench.tables import significant
from recgpt.recall.index_ann import IndexKind
from recgpt.recall.layout import Layout

# Okabe and Ito's colours, which people with any colour vision can tell apart.
_PALETTE = ("#222222", "#CC79A7", "#0072B2", "#E69F00", "#D55E00", "#009E73", "#56B4E9")
_COLOURS = dict(zip((way.name for way in WAYS), _PALETTE, strict=True))
_LOOP = Way(Layout.INDEX, IndexKind.FLAT)


def crossover(rows: Sequence[Row]) -> list[dict[str, int]]:
    """For each size of the catalogue the least batch from which on the exact index in the loop is the faster layout.

    On one thread. What ``recgpt.recall.layout`` holds is made of this.
    """
    found = []
    single = [row for row in rows if row.facts["num_threads"] == 1]
    for num_items in sorted({int(row.facts["num_items"] or 0) for row in single}):
        cells: dict[int, dict[str, float]] = {}
        for row in single:
            if row.facts["num_items"] == num_items:
                cells.setdefault(int(row.facts["batch"] or 0), {})[row.name] = row.latency_ms["p50"]
        both = {batch: p50 for batch, p50 in cells.items() if REFERENCE.name in p50}
        faster = [batch for batch, p50 in both.items() if p50[_LOOP.name] < p50[REFERENCE.name]]
        found += [{"num_items": num_items, "least_batch": min(faster)}] if faster else []
    return found


def on_fewest_threads(result: Result) -> list[Row]:
    """The rows that were measured on as few threads as any."""
    fewest = min(int(row.facts["num_threads"] or 0) for row in result.rows)
    return [row for row in result.rows if row.facts["num_threads"] == fewest]


def show_growth(result: Result, console: Console) -> None:
    """One line a row."""
    table = Table(title=result.method["title"], title_justify="left", title_style="bold", box=None)
    for heading in ("items", "threads", "batch", "", "ms, p50", "p90", "times as fast", "recall@100", "same lists"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in result.rows:
        facts = row.facts
        table.add_row(
            f"{facts['num_items']:,}",
            str(facts["num_threads"]),
            str(facts["batch"]),
            row.name,
            significant(row.latency_ms["p50"]),
            significant(row.latency_ms["p90"]),
            f"{facts['ratio_to_reference']:.2f}",
            f"{facts['ann_recall_at_100']:.3f}",
            f"{facts['identical_lists']:.1%}",
        )
    console.print(table)
    for cell in result.method["crossover"]:
        console.print(f"{cell['num_items']:,} items: the loop is faster from batches of {cell['least_batch']} on")


def growth(result: Result, folder: Path) -> Section:
    """The section of the report."""
    return Section(
        title=result.method["title"],
        result=result,
        plots=plot_growth(result, folder),
        tables=(facts_table(result.rows),),
    )


def plot_growth(result: Result, folder: Path) -> tuple[Path, ...]:
    """Draws median and p90 over the number of items: a column for each batch size, a row for each number of threads.

    Args:
        result: of ``benchmarks/catalogue_growth.py``.
        folder: of the PNG, which has the result's name.

    Returns:
        The PNG, or nothing where there is only one number of items.
    """
    if len({row.facts["num_items"] for row in result.rows}) == 1:
        return ()
    target = folder / f"{result.name}.png"
    batches, threads = (sorted({int(row.facts[fact] or 0) for row in result.rows}) for fact in ("batch", "num_threads"))
    figure = Figure(figsize=(3.4 * len(batches) + 0.8, 3.2 * len(threads) + 1.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(threads), len(batches), squeeze=False, sharex=True)
    for number, line in zip(threads, grid, strict=True):
        for batch, axes in zip(batches, line, strict=True):
            rows = [row for row in result.rows if (row.facts["batch"], row.facts["num_threads"]) == (batch, number)]
            _draw(axes, rows)
            axes.set_title(f"batch {batch}, {number} thread{'s' if number > 1 else ''}", color=INK, fontsize=11)
        line[0].set_ylabel("ms: median, and p90 dotted", color=FAINT, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("items", color=FAINT, fontsize=9)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(result.method["title"], color=INK, fontsize=13, fontweight="bold")
    save_figure(figure, target)
    return (target,)


def _draw(axes: Axes, rows: Sequence[Row]) -> None:
    for way in WAYS:
        mine = [row for row in rows if row.name == way.name]
        if not mine:
            continue
        sizes = [int(row.facts["num_items"] or 0) for row in mine]
        for percentile, style in (("p50", "-"), ("p90", ":")):
            values = [row.latency_ms[percentile] for row in mine]
            label = way.name if percentile == "p50" else None
            axes.plot(sizes, values, style, color=_COLOURS[way.name], marker="o", markersize=4, label=label)
    axes.set(xscale="log", yscale="log")
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.tick_params(colors=FAINT, labelsize=9)
