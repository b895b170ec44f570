"""Plots made from a benchmark's JSON alone, so that they can be made again without measuring again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from recgpt.bench.results import Result, Row
from recgpt.bench.stages import STAGES
from recgpt.bench.tables import significant
from recgpt.files import atomic_path

# Okabe and Ito's colours, which people with any colour vision can tell apart.
STAGE_COLOURS = dict(zip(STAGES, ("#999999", "#E69F00", "#D55E00", "#0072B2", "#009E73", "#CC79A7"), strict=True))
INK, FAINT, BLUE = "#222222", "#767676", "#0072B2"
MARKERS: dict[str, dict[str, Any]] = {
    "p50": {"marker": "o", "markersize": 8},
    "p90": {"marker": "|", "markersize": 11, "markeredgewidth": 2},
    "p99": {"marker": ">", "markersize": 5},
}


def plot_recall_latency(result: Result, target: Path) -> None:
    """Draws latency and stages by contender, one column a batch size.

    Args:
        result: of ``benchmarks/recall_latency.py``.
        target: PNG to write.

    Raises:
        OutputError: ``target`` cannot be written.
    """
    groups = result.calls_by_batch()
    # Legend and footnote get strips of their own, which the layout would put one over the other.
    layout = ConstrainedLayoutEngine(rect=(0.0, 0.085, 1.0, 0.915), hspace=0.06, wspace=0.03)
    figure = Figure(figsize=(1.8 + 3.8 * len(groups), 6.2), dpi=150, layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(groups), squeeze=False)
    for column, (batch, rows) in enumerate(groups.items()):
        _draw_latency(axes[0, column], rows)
        _draw_stages(axes[1, column], rows)
        title = f"{batch} request{'s' if batch != 1 else ''} a call"
        axes[0, column].set_title(title, color=INK, fontsize=11, fontweight="bold", pad=12)
        axes[1, column].set_xlabel("ms", color=FAINT, fontsize=9)
        if column:
            axes[0, column].set_yticklabels([])
            axes[1, column].set_yticklabels([])
    axes[0, 0].set_ylabel("whole call", color=FAINT, fontsize=10, labelpad=10)
    axes[1, 0].set_ylabel("median of each stage", color=FAINT, fontsize=10, labelpad=10)
    figure.suptitle(result.method["title"], color=INK, fontsize=14, fontweight="bold")
    _add_legend(figure, groups)
    figure.text(0.5, 0.012, _footnote(result), color=FAINT, fontsize=8, ha="center")
    save_figure(figure, target)


def _draw_latency(axes: Axes, rows: Sequence[Row]) -> None:
    limit = 1.06 * max(row.latency_ms["p99"] for row in rows)
    for position, row in enumerate(rows):
        latency = row.latency_ms
        axes.plot([latency["p50"], latency["p99"]], [position, position], color=BLUE, linewidth=2, alpha=0.4)
        for percentile, marker in MARKERS.items():
            axes.plot(latency[percentile], position, color=BLUE, linestyle="", **marker)
        ratio = row.facts["ratio_to_eager"]
        faster = "" if ratio is None or ratio == 1.0 else f"   {significant(float(ratio))} times as fast"
        is_left = latency["p50"] < limit / 2
        axes.annotate(
            f"{significant(latency['p50'])} ms{faster}",
            (latency["p50"], position),
            (-4 if is_left else 4, 9),
            textcoords="offset points",
            ha="left" if is_left else "right",
            color=INK,
            fontsize=9,
        )
    _style(axes, rows, limit)


def _draw_stages(axes: Axes, rows: Sequence[Row]) -> None:
    medians = [{stage: found["p50"] for stage, found in row.stages_ms.items()} for row in rows]
    for position, widths in enumerate(medians):
        start = 0.0
        for stage in [stage for stage in STAGES if stage in widths]:
            axes.barh(position, widths[stage], left=start, height=0.5, color=STAGE_COLOURS[stage])
            start += widths[stage]
    _style(axes, rows, 1.06 * max(sum(widths.values()) for widths in medians))


def _style(axes: Axes, rows: Sequence[Row], limit: float) -> None:
    axes.set_yticks(range(len(rows)), [row.name for row in rows], color=INK, fontsize=10)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_xlim(0, limit)
    axes.tick_params(axis="x", colors=FAINT, labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#cccccc")


def _add_legend(figure: Figure, groups: Mapping[int, Sequence[Row]]) -> None:
    used = {stage for rows in groups.values() for row in rows for stage in row.stages_ns}
    handles = [Patch(color=STAGE_COLOURS[stage], label=stage) for stage in STAGES if stage in used]
    marks = [Line2D([], [], color=BLUE, linestyle="", label=name, **marker) for name, marker in MARKERS.items()]
    figure.legend(
        handles=[*marks, *handles],
        loc="lower center",
        bbox_to_anchor=(0.5, 0.03),
        ncols=len(marks) + len(handles),
        frameon=False,
        fontsize=9,
    )


def _footnote(result: Result) -> str:
    machine: Mapping[str, Any] = result.environment
    given: Mapping[str, Any] = result.method["parameters"]
    return (
        f"{machine['cpu']}, {machine['num_cores']} cores, load {machine['load_average']} at the start, "
        f"{given['num_threads']} thread(s) each · "
        f"{given['num_items']:,} items, width {given['hidden_size']}, {given['num_blocks']} block(s) · "
        f"{'+'.join(map(str, given['quotas']))} items of {len(given['quotas'])} steps · "
        f"{'/'.join(map(str, given['num_rounds']))} interleaved rounds · {result.created[:10]}"
    )


def save_figure(figure: Figure, target: Path) -> None:
    """Writes a PNG, wholly or not at all; OutputError if it cannot."""
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")
