"""Plots of quality reports, made from their JSON alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recgpt.bench.plots import BLUE, FAINT, INK, save_figure
from recgpt.bench.quality_tables import Report, title

ORANGE = "#D55E00"
STAGES = (("validation", ORANGE, "o"), ("test", BLUE, "s"))
METRICS = {"hr@10": "HR@10", "ndcg@10": "NDCG@10"}

Rows = Sequence[Mapping[str, Any]]


def plot_prompts(reports: Sequence[Report], target: Path) -> None:
    """Figure 4 of the paper again: what the number of generated prompts an item changes, and deviations over seeds.

    Args:
        reports: as ``benchmarks/recall_quality.py`` writes them.
        target: PNG to write.

    Raises:
        OutputError: ``target`` cannot be written.
    """
    _plot(
        [(title(report), report["prompts"]) for report in reports],
        label=lambda row: str(row["num_prompts"]),
        xlabel="K, generated prompts an item in stage 2",
        heading="Prompts: quality of the tuned model by K",
        target=target,
    )


def plot_quotas(reports: Sequence[Report], target: Path) -> None:
    """Figures 5 and 6 of the paper again: the same of (m, n), the items from each step."""
    _plot(
        [(title(report), report["quotas_sweep"]) for report in reports],
        label=lambda row: "{},{}".format(*row["quotas"], 0),
        xlabel="(m, n), items from the first and from the second interest",
        heading="Two steps: quality of the tuned model by quotas",
        target=target,
    )


def _plot(
    sweeps: Sequence[tuple[str, Rows]],
    *,
    label: Callable[[Mapping[str, Any]], str],
    xlabel: str,
    heading: str,
    target: Path,
) -> None:
    figure = Figure(figsize=(max(1.0 + 3.2 * len(sweeps), 5.2), 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(METRICS), len(sweeps), squeeze=False, sharex="col")
    for column, (name, rows) in enumerate(sweeps):
        axes[0, column].set_title(name, color=INK, fontsize=11, fontweight="bold")
        for line, metric in enumerate(METRICS):
            _draw(axes[line, column], rows, metric, [label(row) for row in rows])
    for line, metric in enumerate(METRICS.values()):
        axes[line, 0].set_ylabel(f"{metric}, less the leftmost", color=FAINT, fontsize=10)
    figure.supxlabel(xlabel, color=FAINT, fontsize=10)
    figure.suptitle(heading, color=INK, fontsize=13, fontweight="bold")
    axes[0, 0].legend(loc="lower left", frameon=False, fontsize=9)
    save_figure(figure, target)


def _draw(axes: Axes, rows: Rows, metric: str, labels: Sequence[str]) -> None:
    axes.axhline(0, color=FAINT, linewidth=0.8)
    for stage, colour, marker in STAGES:
        means = [row[stage]["mean"][metric] - rows[0][stage]["mean"][metric] for row in rows]
        deviations = [row[stage].get("deviation", {}).get(metric, 0.0) for row in rows]
        axes.errorbar(
            range(len(rows)), means, yerr=deviations, color=colour, marker=marker, markersize=4, capsize=2, label=stage
        )
    axes.set_xticks(range(len(rows)), labels)
    axes.margins(y=0.15)
    axes.tick_params(colors=FAINT, labelsize=8)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
