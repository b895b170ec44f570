"""The tables of a quality report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from recgpt.tables import markdown_table

Report = Mapping[str, Any]

METRICS = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")

RECGPT, RECGPT_1, PRETRAIN, NO_PROMPTS = "recgpt", "recgpt_1", "pretrain", "no_prompt_finetune"
VARIANT_1, FINISHED, BCE, POP = "variant_1", "finished", "sasrec_bce", "pop"
ENSEMBLE, RECGPT_ENSEMBLE = "ensemble", "recgpt_ensemble"
NAMES = {
    RECGPT: "RecGPT, two steps",
    RECGPT_1: "RecGPT_1, one step",
    NO_PROMPTS: "tuned without prompts, one step",
    PRETRAIN: "pre-trained, one step",
    VARIANT_1: "pre-trained, two steps",
    FINISHED: "as `recgpt train` leaves it: the better on validation",
    ENSEMBLE: "an ensemble of these seeds",
    RECGPT_ENSEMBLE: "RecGPT, two steps, an ensemble of the seeds",
    BCE: "SASRec, binary cross entropy",
    POP: "most popular",
}
"""Of each system in a report, in the order of tables."""

ALL_SMOOTHED, _, ALL_OF_BOTH = MIXES = ("all smoothed", "best on validation", "all of both kinds")
"""The ensembles of models trained in two ways that are looked at on test; the first is the baseline."""

# Table 2 of the paper (arXiv 2404.08675): hr@5, hr@10, ndcg@5, ndcg@10.
PAPER: Mapping[str, tuple[float, float, float, float]] = {
    "beauty": (0.0440, 0.0654, 0.0289, 0.0357),
    "sports": (0.0219, 0.0339, 0.0143, 0.0181),
    "toys": (0.0529, 0.0721, 0.0359, 0.0419),
    "yelp": (0.0177, 0.0297, 0.0107, 0.0146),
}


_FULL_SASREC = "SASRec, full cross entropy (Li et al. 2023, arXiv 2301.00979)"
_WITH_ATTRIBUTES = "S3-Rec with attributes, full cross entropy (Li et al. 2023)"

# The same of results on the same files, ranked over all items with those of the history left out.
PUBLISHED: Mapping[str, Mapping[str, tuple[float, float, float, float]]] = {
    _FULL_SASREC: {
        "beauty": (0.0675, 0.0923, 0.0488, 0.0568),
        "sports": (0.0374, 0.0539, 0.0265, 0.0318),
        "toys": (0.0727, 0.0985, 0.0533, 0.0617),
        "yelp": (0.0228, 0.0382, 0.0143, 0.0193),
    },
    "BSARec, five seeds (RecBoard)": {
        "beauty": (0.0730, 0.1002, 0.0523, 0.0610),
        "sports": (0.0417, 0.0603, 0.0288, 0.0348),
        "toys": (0.0799, 0.1078, 0.0574, 0.0663),
    },
    "TV-Rec (NeurIPS 2025)": {
        "beauty": (0.0721, 0.1017, 0.0513, 0.0608),
        "sports": (0.0431, 0.0635, 0.0298, 0.0363),
        "yelp": (0.0290, 0.0474, 0.0186, 0.0245),
    },
    "WEARec (AAAI 2026)": {
        "beauty": (0.0738, 0.1041, 0.0516, 0.0614),
        "sports": (0.0433, 0.0631, 0.0302, 0.0367),
    },
    _WITH_ATTRIBUTES: {
        "beauty": (0.0746, 0.1058, 0.0528, 0.0629),
        "sports": (0.0452, 0.0646, 0.0308, 0.0371),
        "toys": (0.0797, 0.1099, 0.0572, 0.0669),
        "yelp": (0.0290, 0.0465, 0.0186, 0.0242),
    },
}


def title(report: Report) -> str:
    """What a report is about: the data set, and the recipe where that is not named like it."""
    dataset = str(report["dataset"]).capitalize()
    recipe = report.get("recipe", report["dataset"])
    return dataset if recipe == report["dataset"] else f"{dataset} ({recipe})"


def show_quality(report: Report, console: Console) -> None:
    """Prints the headline and what the differences are worth."""
    table = Table("", *METRICS, title=f"{report['dataset']}, test, {len(report['seeds'])} seed(s)", box=None)
    for cells in headline_rows(report):
        table.add_row(*cells)
    console.print(table)
    for row in report["significance"]:
        difference = row["ndcg@10"]
        console.print(
            f"{NAMES[row['system']]} against {NAMES[row['baseline']]}: ndcg@10 {difference['difference']:+.4f} "
            f"({difference['low']:+.4f} to {difference['high']:+.4f}), p = {difference['p_bootstrap']:.3f}"
        )


def headline_rows(report: Report) -> Iterable[list[str]]:
    """Published results, then each system: its name and four metrics, with deviations over seeds where known."""
    published = {"the paper's RecGPT": PAPER} | dict(PUBLISHED)
    for name, results in published.items():
        if report["dataset"] in results:
            yield [name, *(number(value) for value in results[report["dataset"]])]
    deviations = report.get("deviations", {})
    for system, name in NAMES.items():
        if system in report["metrics"]:
            means, spread = report["metrics"][system], deviations.get(system, {})
            yield [name, *(number(means[metric], spread.get(metric)) for metric in METRICS)]


def own_reports(reports: Iterable[Report]) -> list[Report]:
    """The whole reports of the paper's data sets by the recipes that are named like them, in the paper's order."""
    found = {report["dataset"]: report for report in reports if report["recipe"] == report["dataset"]}
    return [found[dataset] for dataset in PAPER if dataset in found and ENSEMBLE in found[dataset]["metrics"]]


def summary_table(reports: Sequence[Report], ensembles: Mapping[str, Report]) -> str:
    """What was published and what is reached here on the test targets, HR@10 / NDCG@10; a column for each report.

    Args:
        reports: one a data set.
        ensembles: by data set, of models that were trained in two ways; their row needs all of them.
    """
    of_ids = [results for name, results in PUBLISHED.items() if name != _WITH_ATTRIBUTES]
    published = {
        "the paper's RecGPT (binary cross entropy)": [PAPER],
        "SASRec with full cross entropy (Li et al. 2023)": [PUBLISHED[_FULL_SASREC]],
        "the best published that we know, of ids alone": of_ids,
        "S3-Rec, which knows the items' attributes as well (Li et al. 2023)": [PUBLISHED[_WITH_ATTRIBUTES]],
    }
    rows = []
    for name, tables in published.items():
        datasets = (report["dataset"] for report in reports)
        found = ([table[dataset] for table in tables if dataset in table] for dataset in datasets)
        best = (dict(zip(METRICS, map(max, zip(*known, strict=True)), strict=True)) for known in found)
        rows.append([name, *map(pair, best)])
    for system, name in {
        POP: "most popular items",
        RECGPT: "RecGPT: both stages, two steps",
        FINISHED: "`recgpt train`, which keeps the better stage",
        RECGPT_ENSEMBLE: "RecGPT: `recgpt ensemble` of the seeds, both stages, two steps",
        ENSEMBLE: "`recgpt ensemble` of the seeds as `recgpt train` leaves them",
    }.items():
        rows.append([name, *(pair(report["metrics"][system]) for report in reports)])
    if all(report["dataset"] in ensembles for report in reports):
        mixed = (ensembles[report["dataset"]]["tested"][ALL_OF_BOTH]["test"] for report in reports)
        rows.append(["`recgpt ensemble` of these and of models without smoothing", *map(pair, mixed)])
    return markdown_table(("HR@10 / NDCG@10", *map(title, reports)), rows)


def pair(metrics: Mapping[str, float]) -> str:
    """HR@10 / NDCG@10."""
    return f"{number(metrics['hr@10'])} / {number(metrics['ndcg@10'])}"


def number(mean: float, deviation: float | None = None, *, digits: int = 4) -> str:
    """A share below 1 as tables of the field write it, ``.0654``, or ``.0654 ± .0008``."""
    text = f"{mean:.{digits}f}".lstrip("0")
    return text if deviation is None else f"{text} ± {deviation:.{digits}f}".replace("± 0", "± ")
