"""Sections of the quality report that are made from a JSON each: what they say follows from what was found."""

from __future__ import annotations

from recgpt.bench.feedback_report import feedback_parts
from recgpt.bench.horizon_report import horizon_parts
from recgpt.bench.recipe_steps_report import recipe_steps_parts

METRICS = {"hr@5": 0.1, "hr@10": 0.2, "ndcg@5": 0.05, "ndcg@10": 0.06}


def found(difference: float, p: float) -> dict[str, float]:
    return {"difference": difference, "low": difference - 0.001, "high": difference + 0.001, "p_bootstrap": p}


def horizon_row(quotas: list[int], merge: str, one_step: object, by_quotas: object) -> dict[str, object]:
    return {
        "num_interests": len(quotas), "quotas": quotas, "merge": merge, "k": 10, "recall@10": 0.06,
        "against_one_step": one_step, "against_quotas": by_quotas,
        "intra_list_distance": 0.5, "coverage": 0.8, "mean_popularity": 12.0, "new_items_by_step": [3] * len(quotas),
    }  # fmt: skip


def test_the_horizon_names_what_finds_more_and_less_beyond_noise() -> None:
    rows = [
        horizon_row([10], "quotas", None, None),
        horizon_row([5, 5], "quotas", found(-0.003, 0.0002), None),
        horizon_row([5, 5], "probability", found(0.001, 0.4), found(0.004, 0.001)),
    ]
    table, one_step, by_quotas, *_ = horizon_parts({"rows": rows, "method": {"title": "t", "text": "how"}})
    assert table.splitlines()[-1].startswith(
        "| 2 | 5,5 | probability | .0600 | +0.0010 (+0.0000 to +0.0020), .400 | +0.0040 (+0.0030 to +0.0050), .001 |"
    )
    assert one_step == "More than one step finds, beyond noise: none; less: quotas (5,5)."
    assert by_quotas == "More than quotas find, beyond noise: probability (5,5); less: none."


def test_feedback_is_compared_by_the_users_ranks_and_the_report_says_what_is_beyond_noise() -> None:
    good, bad = [[1] * 60 + [0] * 60], [[0] * 60 + [0] * 60]
    variants = {
        "pre-trained": good, "no prompts": good, "generated prompts": bad,
        "real unclicked items": good, "real unclicked items, not sent": good,
    }  # fmt: skip
    rows = [
        {"row": name, "quotas": [10], "num_better": 1, "seeds": [0], "mean": METRICS, "deviation": METRICS, "ranks": it}
        for name, it in variants.items()
    ]
    counts = {"num_users": 120, "num_items": 9, "num_clicks": 99, "num_unclicked": 9}
    result = {"rows": rows, "method": {"title": "t", "text": "how", "parameters": counts}}
    said = next(part for part in feedback_parts(result) if part.startswith("Beyond noise"))
    better = [f"real unclicked items better than generated prompts (10; {metric})" for metric in ("hr@10", "ndcg@10")]
    worse = [f"generated prompts worse than no prompts (10; {metric})" for metric in ("hr@10", "ndcg@10")]
    assert said == f"Beyond noise: {'; '.join(better + worse)}."


def test_each_step_of_the_recipe_is_tested_against_the_one_before() -> None:
    stages = {stage: {"mean": METRICS, "deviation": {}} for stage in ("test", "validation")}
    against = {"hr@10": found(0.01, 0.001), "ndcg@10": found(0.002, 0.6)}
    rows = [{"row": "without", **stages, "against": {}}, {"row": "with", **stages, "against": against}]
    *_, means, tests = recipe_steps_parts([{"dataset": "toys", "rows": rows}])
    assert means.splitlines()[2] == "| without | Toys | .2000 | .0600 | .2000 | .0600 |"
    assert tests.splitlines()[2:] == [
        "| with | Toys | hr@10 | +0.0100 | +0.0090 to +0.0110 | .001 | .002 |",
        "| with | Toys | ndcg@10 | +0.0020 | +0.0010 to +0.0030 | .600 | .600 |",
    ]
    assert not list(recipe_steps_parts([]))
