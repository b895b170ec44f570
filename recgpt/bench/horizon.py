"""Lists of one and of several steps, by quotas and by fusions, against a horizon of several held-out items.

Rows are plain values for JSON; the plot is made from the JSON alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from recgpt.bench.plots import BLUE, FAINT, INK, save_figure
from recgpt.bench.significance import compare
from recgpt.data.split import Split
from recgpt.errors import ConfigError, DataError
from recgpt.evaluation import UserLists, evaluate_lists
from recgpt.horizon import summarise_horizon
from recgpt.metrics import found_shares_at_k
from recgpt.recall.recaller import Recaller
from recgpt.types import MERGES

# Of lists of ten; longer ones keep the proportions.
QUOTAS = (
    (10,),
    (9, 1), (8, 2), (7, 3), (5, 5),
    (7, 1, 1, 1), (4, 2, 2, 2),
    (5, 1, 1, 1, 1, 1), (4, 2, 1, 1, 1, 1),
)  # fmt: skip
UNIT = 10

COLOURS = dict(zip(MERGES, (INK, BLUE, "#D55E00"), strict=True))
MARKERS = {1: "*", 2: "o", 4: "s", 6: "^"}
SIDES = ((6, 6, "left"), (-6, 6, "right"), (6, -6, "left"), (-6, -6, "right"))
AXES = {"intra_list_distance": "intra-list distance", "coverage": "catalogue coverage"}


def quotas_of(k: int) -> list[tuple[int, ...]]:
    """The quotas to compare for lists of k, one step first; ConfigError if k is no multiple of ten."""
    if k < UNIT or k % UNIT:
        raise ConfigError(f"k = {k}: expected a multiple of {UNIT}, in which the quotas keep their proportions")
    return [tuple(quota * k // UNIT for quota in proportions) for proportions in QUOTAS]


def measure_horizon(
    recaller: Recaller, split: Split, compared: Sequence[tuple[int, ...]], *, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Recalls lists of k for the test users in every way.

    Args:
        recaller: of a model that never saw the split's targets.
        split: of several targets.
        compared: quotas of equal sums, one step first; those of several steps under every merge.
        say: told which row comes next.

    Returns:
        Rows of ``num_interests``, ``quotas``, ``merge``, ``k``, what ``summarise_horizon`` gives, and two paired
        differences of the set recall at k: ``against_one_step``, None in the first row, which is one step, and
        ``against_quotas``, to the same quotas merged by quotas, None where that is the merge.
    """
    one_step, rows = None, []
    for quotas in compared:
        by_quotas = None
        for merge in MERGES if len(quotas) > 1 else MERGES[:1]:
            say(f"quotas {','.join(map(str, quotas))}, merge {merge}")
            lists = evaluate_lists(recaller, split, quotas=quotas, merge=merge)
            k, num_interests = sum(quotas), len(quotas)
            rows.append(
                {"num_interests": num_interests, "quotas": list(quotas), "merge": merge, "k": k}
                | summarise_horizon(
                    lists, one_step or lists, recaller, num_interests=num_interests, cutoffs=(k // 2, k)
                )
                | {"against_one_step": _against(lists, one_step, k), "against_quotas": _against(lists, by_quotas, k)}
            )
            one_step, by_quotas = one_step or lists, by_quotas or lists
    return rows


def _against(lists: UserLists, others: UserLists | None, k: int) -> dict[str, Any] | None:
    if others is None:
        return None
    return asdict(compare(*(found_shares_at_k(ranked.target_ranks, k) for ranked in (lists, others))))


def plot_horizon(source: Path, target: Path) -> None:
    """Draws set recall against distance and against coverage, a point a row.

    Args:
        source: JSON of ``benchmarks/horizon.py``.
        target: PNG to write.

    Raises:
        DataError: ``source`` is not such a JSON.
        OutputError: ``target`` cannot be written.
    """
    try:
        result = json.loads(source.read_text())
        rows, title = result["rows"], result["method"]["title"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: expected the JSON of benchmarks/horizon.py: {error}; run it again") from error
    figure = Figure(figsize=(11, 5.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (metric, label) in zip(figure.subplots(1, len(AXES)), AXES.items(), strict=True):
        _draw(axes, rows, metric, label)
    figure.suptitle(title, color=INK, fontsize=13, fontweight="bold")
    merges = [Line2D([], [], color=colour, marker="o", linestyle="", label=name) for name, colour in COLOURS.items()]
    steps = [
        Line2D([], [], color=FAINT, marker=marker, linestyle="", label=f"{number} step{'s' if number > 1 else ''}")
        for number, marker in MARKERS.items()
    ]
    figure.legend(handles=[*merges, *steps], loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    save_figure(figure, target)


def _draw(axes: Axes, rows: list[dict[str, Any]], metric: str, label: str) -> None:
    k = rows[0]["k"]
    places = [(row[metric], row[f"recall@{k}"]) for row in rows]
    for row, place in zip(rows, places, strict=True):
        axes.plot(*place, color=COLOURS[row["merge"]], marker=MARKERS[row["num_interests"]], markersize=8)
    axes.set_xlabel(label, color=FAINT, fontsize=10)
    axes.set_ylabel(f"set recall@{k}", color=FAINT, fontsize=10)
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(0.15)
    axes.autoscale_view()
    taken = [Bbox.from_bounds(x, y, 1, 1).padded(8) for x, y in axes.transData.transform(places)]
    for row, place in zip(rows, places, strict=True):
        _name(axes, place, ",".join(map(str, row["quotas"])), taken)


def _name(axes: Axes, place: tuple[float, float], text: str, taken: list[Bbox]) -> None:
    """Writes beside a point what it is, on the first of its sides where there is room; or on the last."""
    for x, y, alignment in SIDES:
        name = axes.annotate(
            text, place, (x, y), textcoords="offset points", color=FAINT, fontsize=7, ha=alignment, va="center"
        )
        box = name.get_window_extent()
        has_room = box.x1 <= axes.bbox.x1 and not any(box.overlaps(other) for other in taken)
        if has_room or (x, y, alignment) == SIDES[-1]:
            taken.append(box)
            return
        name.remove()
