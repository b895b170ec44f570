"""What the paper found, and whether a quality report finds it too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from recgpt.bench.quality_tables import NO_PROMPTS, PRETRAIN, RECGPT, RECGPT_1, VARIANT_1, Report, number, title


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


def claim_rows(report: Report) -> Iterator[tuple[str, ...]]:
    """Each claim that a report can judge: its text, the data, the paper's difference, ours, interval, p, verdict."""
    paper = PAPER_HR_10.get(report["dataset"])
    for claim in CLAIMS:
        for row in report["significance"]:
            if (row["system"], row["baseline"]) != (claim.system, claim.baseline):
                continue
            found = row["hr@10"]
            theirs = f"{paper[claim.system] - paper[claim.baseline]:+.4f}" if paper else "-"
            yield (
                claim.text,
                title(report),
                theirs,
                f"{found['difference']:+.4f}",
                f"{found['low']:+.4f} to {found['high']:+.4f}",
                number(found["p_bootstrap"], digits=3),
                verdict(found["low"], found["high"], is_better=claim.is_better),
            )


def verdict(low: float, high: float, *, is_better: bool) -> str:
    """What an interval of a difference says of a claim."""
    if low <= 0 <= high:
        return "no difference beyond noise"
    return "holds" if (low > 0) == is_better else "the opposite holds"
