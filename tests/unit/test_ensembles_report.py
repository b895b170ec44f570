from __future__ import annotations

from recgpt.bench.ensembles_report import ensemble_parts


def mix(smoothed: int, unsmoothed: int, hr_10: float) -> dict[str, object]:
    return {"smoothed": smoothed, "unsmoothed": unsmoothed, "validation": {"hr@10": hr_10, "ndcg@10": hr_10 / 2}}


def test_a_data_set_has_its_mixes_on_validation_and_some_of_them_on_test() -> None:
    found = {"difference": 0.0011, "low": 0.0002, "high": 0.002, "p_bootstrap": 0.03}
    costs = {"hidden_size": 256, "times_first": {"1": 1.5, "32": 2.25}, "bundle_bytes": 61_600_000}
    more = {"costs": costs, "significance": {"hr@10": found, "ndcg@10": found}}
    both, smoothed = mix(1, 1, 0.12), mix(2, 0, 0.11)
    result = {
        "dataset": "toys",
        "rows": [smoothed, both],
        "tested": {
            "all smoothed": smoothed | more | {"test": {"hr@10": 0.101, "ndcg@10": 0.06}},
            "all of both kinds": both | more | {"test": {"hr@10": 0.102, "ndcg@10": 0.0601}},
        },
    }
    _, _, validation, test = ensemble_parts({"toys": result})
    assert validation.splitlines()[2:] == [
        "| 2 smoothed, 0 unsmoothed | .1100 / .0550 |",
        "| 1 smoothed, 1 unsmoothed | .1200 / .0600 |",
    ]
    gains = " | ".join(["+0.0011 (+0.0002 to +0.0020), .030"] * 2)
    assert test.splitlines()[2:] == [
        "| Toys | all smoothed | 2 smoothed, 0 unsmoothed | .1010 / .0600 | - | - | 256 | 1.50 | 2.25 | 62 |",
        f"| Toys | all of both kinds | 1 smoothed, 1 unsmoothed | .1020 / .0601 | {gains} | 256 | 1.50 | 2.25 | 62 |",
    ]


def test_nothing_measured_is_no_section() -> None:
    assert not list(ensemble_parts({}))
