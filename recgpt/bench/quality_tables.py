"""The tables of a quality report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

Report = Mapping[str, Any]

METRICS = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")
NAMES = {
    "recgpt": "RecGPT, two steps",
    "ensemble": "an ensemble of these RecGPT, two steps",
    "recgpt_1": "RecGPT_1, one step",
    "no_prompt_finetune": "tuned without prompts, one step",
    "pretrain": "pre-trained, one step",
    "variant_1": "pre-trained, two steps",
    "sasrec_bce": "SASRec, binary cross entropy",
    "pop": "most popular",
}

# Table 2 of the paper (arXiv 2404.08675): hr@5, hr@10, ndcg@5, ndcg@10.
PAPER = {
    "beauty": (0.0440, 0.0654, 0.0289, 0.0357),
    "sports": (0.0219, 0.0339, 0.0143, 0.0181),
    "toys": (0.0529, 0.0721, 0.0359, 0.0419),
    "yelp": (0.0177, 0.0297, 0.0107, 0.0146),
}


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
    """The paper's RecGPT, then each system: its name and four metrics, with deviations over seeds where known."""
    if report["dataset"] in PAPER:
        yield ["the paper's RecGPT", *(_number(value) for value in PAPER[report["dataset"]])]
    deviations = report.get("deviations", {})
    for system, name in NAMES.items():
        if system in report["metrics"]:
            means, spread = report["metrics"][system], deviations.get(system, {})
            yield [name, *(_number(means[metric], spread.get(metric)) for metric in METRICS)]


def _number(mean: float, deviation: float | None = None) -> str:
    text = f"{mean:.4f}".lstrip("0")
    return text if deviation is None else f"{text} ± {deviation:.4f}".replace("± 0", "± ")
