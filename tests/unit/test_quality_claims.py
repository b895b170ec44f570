from __future__ import annotations

import pytest

from recgpt.bench.quality_claims import CLAIMS, PAPER_HR_10, claim_rows, verdict


def test_a_verdict_is_what_the_interval_says() -> None:
    assert verdict(-0.001, 0.002, is_better=True) == "no difference beyond noise"
    assert verdict(0.001, 0.002, is_better=True) == verdict(-0.002, -0.001, is_better=False) == "holds"
    assert verdict(-0.002, -0.001, is_better=True) == verdict(0.001, 0.002, is_better=False) == "the opposite holds"


def test_each_claim_that_a_report_can_judge_has_its_row() -> None:
    found = {"difference": 0.0011, "low": 0.0002, "high": 0.002, "p_bootstrap": 0.0131}
    report = {
        "dataset": "toys",
        "significance": [
            {"system": "recgpt", "baseline": "recgpt_1", "hr@10": found},
            {"system": "recgpt", "baseline": "sasrec_bce", "hr@10": found},  # no finding of the paper's
        ],
    }
    expected = ("two steps beat one", "Toys", "+0.0010", "+0.0011", "+0.0002 to +0.0020", ".013", "holds")
    assert list(claim_rows(report)) == [expected]
    assert [row[2] for row in claim_rows(report | {"dataset": "mine"})] == ["-"]
    assert [row[1] for row in claim_rows(report | {"recipe": "toys"})] == ["Toys"]
    assert [row[1] for row in claim_rows(report | {"recipe": "toys_wide"})] == ["Toys (toys_wide)"]


@pytest.mark.parametrize("dataset", PAPER_HR_10)
def test_the_papers_numbers_bear_the_papers_claims_out(dataset: str) -> None:
    for claim in CLAIMS:
        difference = PAPER_HR_10[dataset][claim.system] - PAPER_HR_10[dataset][claim.baseline]
        assert (difference > 0) == claim.is_better
