from __future__ import annotations

import pytest

from recgpt.bench.quality_claims import CLAIMS, PAPER_HR_10, claim_rows, other_rows, verdict

HOLDS, OPPOSITE, NOTHING = "holds", "the opposite holds", "no difference beyond noise"


def test_a_verdict_is_what_the_sign_beyond_noise_says() -> None:
    better, worse = CLAIMS[0], CLAIMS[-1]
    assert (better.is_better, worse.is_better) == (True, False)
    assert [verdict(sign, better) for sign in (-1, 0, 1)] == [OPPOSITE, NOTHING, HOLDS]
    assert [verdict(sign, worse) for sign in (-1, 0, 1)] == [HOLDS, NOTHING, OPPOSITE]


def found(difference: float, p: float) -> dict[str, float]:
    return {"difference": difference, "low": difference - 0.001, "high": difference + 0.001, "p_bootstrap": p}


def test_each_difference_of_a_report_is_told_once_as_a_claim_of_the_papers_or_beside_them() -> None:
    report = {
        "dataset": "toys",
        "significance": [
            {"system": "recgpt", "baseline": "recgpt_1", "hr@10": found(0.0011, 0.013)},
            {"system": "recgpt", "baseline": "sasrec_bce", "hr@10": found(0.02, 0.001), "ndcg@10": found(0.01, 0.5)},
        ],
    }
    expected = ("two steps beat one", "Toys", "+0.0010", "+0.0011", "+0.0001 to +0.0021", ".013", ".013", HOLDS)
    assert claim_rows([report]) == [expected]
    assert [row[2] for row in claim_rows([report | {"dataset": "mine"}])] == ["-"]
    assert [row[1] for row in claim_rows([report | {"recipe": "toys"}])] == ["Toys"]
    assert [row[1] for row in claim_rows([report | {"recipe": "toys_wide"}])] == ["Toys (toys_wide)"]
    text = "RecGPT, two steps; against: SASRec, binary cross entropy"
    assert other_rows([report]) == [
        (text, "Toys", "hr@10", "+0.0200", "+0.0190 to +0.0210", ".001", ".002"),
        (text, "Toys", "ndcg@10", "+0.0100", "+0.0090 to +0.0110", ".500", ".500"),
    ]


def test_one_small_p_value_among_many_claims_nothing() -> None:
    def report(p: float) -> dict[str, object]:
        return {
            "dataset": "toys",
            "significance": [{"system": "recgpt", "baseline": "recgpt_1", "hr@10": found(0.001, p)}],
        }

    assert [row[-1] for row in claim_rows([report(0.03)])] == [HOLDS]
    assert {row[-1] for row in claim_rows([report(0.03), *[report(0.5)] * 9])} == {NOTHING}
    assert claim_rows([report(0.001), *[report(0.5)] * 9])[0][-1] == HOLDS


@pytest.mark.parametrize("dataset", PAPER_HR_10)
def test_the_papers_numbers_bear_the_papers_claims_out(dataset: str) -> None:
    for claim in CLAIMS:
        difference = PAPER_HR_10[dataset][claim.system] - PAPER_HR_10[dataset][claim.baseline]
        assert (difference > 0) == claim.is_better
