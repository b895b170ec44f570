"""Plain plots for the report: lines over a setting, and bars of ratios. Knows numbers and names, no benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from recgpt.bench.plots import FAINT, INK, save_figure
from recgpt.bench.tables import significant

# Okabe and Ito's colours, which people with any colour vision can tell apart, and a mark for each.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#222222", "#999999")
# Share of an axis that the name of a tick takes.
_TICK_DISTANCE = 0.1

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One set of axes: points (x, y) of each series, by name."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]


def plot_lines(
    panels: Sequence[Panel], target: Path, *, title: str, xlabel: str, ylabel: str, is_log: bool = True
) -> None:
    """Draws panels side by side; x is logarithmic where it spans more than a factor of 20, y by ``is_log``.

    Raises:
        OutputError: ``target`` cannot be written.
    """
    figure, axes = _figure(len(panels), title)
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    for place, panel in enumerate(panels):
        for name, points in panel.series.items():
            style = names.index(name)
            xs, ys = zip(*sorted(points), strict=True)
            axes[place].plot(
                xs,
                ys,
                label=name,
                color=COLOURS[style % len(COLOURS)],
                marker=MARKS[style % len(MARKS)],
                markersize=5,
            )
        ticks = sorted({x for points in panel.series.values() for x, _ in points})
        if is_log:
            axes[place].set_yscale("log")
            for pick in (axes[place].yaxis.set_major_formatter, axes[place].yaxis.set_minor_formatter):
                pick(FuncFormatter(_plain_number))
        is_wide = ticks[0] > 0 and ticks[-1] / ticks[0] > 20
        if is_wide:
            axes[place].set_xscale("log")
        axes[place].set_xticks(ticks, _names_apart(ticks, [math.log(tick) for tick in ticks] if is_wide else ticks))
        axes[place].xaxis.set_minor_locator(NullLocator())
        axes[place].set_title(panel.title, color=INK, fontsize=11)
        axes[place].set_xlabel(xlabel, color=FAINT, fontsize=9)
        axes[place].tick_params(which="minor", colors=FAINT, labelsize=7)
        _plain(axes[place], grid="y")
    axes[0].set_ylabel(ylabel, color=FAINT, fontsize=10)
    handles = {label: handle for one in axes for handle, label in zip(*one.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save_figure(figure, target)


def plot_bars(
    panels: Sequence[tuple[str, Mapping[str, float]]],
    target: Path,
    *,
    title: str,
    xlabel: str,
    is_ratio: bool = False,
) -> None:
    """Draws a horizontal bar a name, panels side by side, and a line at 1 where they are ratios.

    Raises:
        OutputError: ``target`` cannot be written.
    """
    figure, axes = _figure(len(panels), title)
    for place, (heading, values) in enumerate(panels):
        axes[place].barh(list(values), list(values.values()), color=COLOURS[0], height=0.6)
        for row, value in enumerate(values.values()):
            axes[place].annotate(
                significant(value), (value, row), (3, 0), textcoords="offset points", va="center", fontsize=8
            )
        if is_ratio:
            axes[place].axvline(1, color=INK, linewidth=1, linestyle="--")
        axes[place].invert_yaxis()
        axes[place].set_xlim(0, 1.18 * max(*values.values(), float(is_ratio)))
        axes[place].set_title(heading, color=INK, fontsize=11)
        axes[place].set_xlabel(xlabel, color=FAINT, fontsize=9)
        _plain(axes[place], grid="x")
        if place and list(values) == list(panels[0][1]):
            axes[place].tick_params(labelleft=False)  # the same names as on the left
    save_figure(figure, target)


def _figure(num_panels: int, title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(1.6 + 3.9 * num_panels, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold")
    return figure, list(figure.subplots(1, num_panels, squeeze=False)[0])


def _plain(axes: Axes, *, grid: str) -> None:
    axes.tick_params(colors=FAINT, labelsize=8)
    axes.grid(axis="x" if grid == "x" else "y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _names_apart(ticks: Sequence[float], places: Sequence[float]) -> list[str]:
    """Names of ticks; none where it would run into the one before. The last always has one."""
    least = _TICK_DISTANCE * (places[-1] - places[0])
    named = [len(ticks) - 1]
    for tick in range(len(ticks) - 2, -1, -1):
        if places[named[-1]] - places[tick] >= least:
            named.append(tick)
    return [f"{value:,g}" if tick in named else "" for tick, value in enumerate(ticks)]


def _plain_number(value: float, place: int | None) -> str:
    """Of a logarithmic axis: 1, 2 and 5 times the powers of ten, others unnamed."""
    return f"{value:,g}" if f"{value:e}"[0] in "125" and f"{value:.6e}"[2:8] == "000000" else ""
