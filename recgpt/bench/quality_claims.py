"""What the paper found, and whether quality reports find it too; and what else they tested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recgpt.bench.differences import judged
from recgpt.bench.quality_tables import (
    NAMES,
    NO_PROMPTS,
    PRETRAIN,
    RECGPT,
    RECGPT_1,
    VARIANT_1,
    Report,
    title,
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That one system is better than another.

    Attributes:
        text: in words.
        system: the better one, by its name in a report.
        baseline: the other.
        is_better: False where the paper finds the system worse.
    """

    text: str
    system: str
    baseline: str
    is_better: bool = True


CLAIMS = (
    Claim(text="two steps beat one", system=RECGPT, baseline=RECGPT_1),
    Claim(text="prompts beat tuning without", system=RECGPT_1, baseline=NO_PROMPTS),
    Claim(text="tuning beats pre-training alone", system=NO_PROMPTS, baseline=PRETRAIN),
    Claim(
        text="two steps hurt a model that was only pre-trained",
        system=VARIANT_1,
        baseline=PRETRAIN,
        is_better=False,
    ),
)

_SYSTEMS = (RECGPT, RECGPT_1, NO_PROMPTS, PRETRAIN, VARIANT_1)

# HR@10 of these in Tables 2 and 3 of the paper (arXiv 2404.08675).
PAPER_HR_10: Mapping[str, Mapping[str, float]] = {
    dataset: dict(zip(_SYSTEMS, values, strict=True))
    for dataset, values in {
        "beauty": (0.0654, 0.0651, 0.0618, 0.0610, 0.0560),
        "sports": (0.0339, 0.0333, 0.0328, 0.0324, 0.0226),
        "toys": (0.0721, 0.0711, 0.0701, 0.0630, 0.0603),
        "yelp": (0.0297, 0.0293, 0.0287, 0.0278, 0.0261),
    }.items()
}


def claim_rows(reports: Iterable[Report]) -> list[tuple[str, ...]]:
    """Each claim that a report can judge: text, data, the paper's difference, ours as it was tested, verdict."""
    found = [(report, claim, ours) for report in reports for claim in CLAIMS for ours in _differences(report, claim)]
    return [
        (claim.text, title(report), _papers(report, claim), *tested.cells, verdict(tested.sign, claim))
        for (report, claim, _), tested in zip(found, judged([ours for *_, ours in found]), strict=True)
    ]


def other_rows(reports: Iterable[Report]) -> list[tuple[str, ...]]:
    """Each difference of a report that is no claim of the paper's: what, data, metric, ours as it was tested."""
    of_the_paper = {(claim.system, claim.baseline) for claim in CLAIMS}
    found = [
        (report, row, metric)
        for report in reports
        for row in report["significance"]
        if (row["system"], row["baseline"]) not in of_the_paper
        for metric in ("hr@10", "ndcg@10")
    ]
    return [
        (f"{NAMES[row['system']]}; against: {NAMES[row['baseline']]}", title(report), metric, *tested.cells)
        for (report, row, metric), tested in zip(found, judged([row[metric] for _, row, metric in found]), strict=True)
    ]


def verdict(sign: int, claim: Claim) -> str:
    """What the sign of a difference, 0 within noise, says of a claim."""
    if sign == 0:
        return "no difference beyond noise"
    return "holds" if (sign > 0) == claim.is_better else "the opposite holds"


def _differences(report: Report, claim: Claim) -> list[Mapping[str, Any]]:
    """HR@10 of a claim; at most one."""
    pair = (claim.system, claim.baseline)
    return [row["hr@10"] for row in report["significance"] if (row["system"], row["baseline"]) == pair]


def _papers(report: Report, claim: Claim) -> str:
    paper = PAPER_HR_10.get(report["dataset"])
    return f"{paper[claim.system] - paper[claim.baseline]:+.4f}" if paper else "-"
