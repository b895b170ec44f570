"""Paired tests: by hand, against SciPy's own bootstrap, and for how often they cry wolf."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from recgpt.bench.significance import adjusted, compare, compare_ranks
from recgpt.errors import DataError

# Two bootstraps of 10,000 resamples, each with its own random numbers: ends of intervals differ by a few hundredths of
# a standard error.
SAMPLING = 0.1


def paired(seed: int, shift: float, num_users: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    baseline = rng.random(num_users)
    return baseline + shift + 0.3 * rng.normal(size=num_users), baseline


def test_means_and_difference_by_hand() -> None:
    ranks, baseline = np.array([1, 3, 0, 11]), np.array([2, 0, 0, 1])
    found = compare_ranks(ranks, baseline, cutoffs=(1, 10))
    assert set(found) == {"hr@1", "ndcg@1", "hr@10", "ndcg@10"}
    assert (found["hr@1"].mean, found["hr@1"].baseline, found["hr@1"].num_users) == (1 / 4, 1 / 4, 4)
    ndcg = found["ndcg@10"]
    assert ndcg.mean == pytest.approx((1 + 1 / 2) / 4)
    assert ndcg.baseline == pytest.approx((1 / np.log2(3) + 1) / 4)
    assert ndcg.difference == pytest.approx(ndcg.mean - ndcg.baseline)


@pytest.mark.parametrize("shift", [0.0, 0.02, 0.1])
def test_the_bootstrap_agrees_with_scipys(shift: float) -> None:
    values, baseline = paired(1, shift)
    found = compare(values, baseline)
    theirs = stats.bootstrap(
        (values - baseline,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    error = (values - baseline).std() / np.sqrt(len(values))
    assert found.low == pytest.approx(theirs.low, abs=SAMPLING * error)
    assert found.high == pytest.approx(theirs.high, abs=SAMPLING * error)


def test_the_t_test_is_the_paired_one() -> None:
    values, baseline = paired(2, 0.02)
    differences = values - baseline
    t = differences.mean() / (differences.std(ddof=1) / np.sqrt(len(differences)))
    expected = 2 * stats.t.sf(abs(t), df=len(differences) - 1)
    found = compare(values, baseline)
    assert found.p_t_test == pytest.approx(expected)
    assert found.p_bootstrap == pytest.approx(expected, abs=0.02)


def test_a_clear_gain_is_significant_either_way_round() -> None:
    values, baseline = paired(3, 0.2)
    up, down = compare(values, baseline), compare(baseline, values)
    assert 0 < up.low < up.difference < up.high
    assert down.low < down.high < 0
    assert max(up.p_bootstrap, up.p_t_test, down.p_bootstrap, down.p_t_test) < 0.001


def test_without_a_difference_about_one_in_twenty_is_called_significant() -> None:
    pairs = [compare(*paired(seed, 0.0, num_users=40)) for seed in range(200)]
    for name in ("p_bootstrap", "p_t_test"):
        # 200 draws at 5 %: more than 20 or fewer than 2 happen less than once in a hundred times.
        assert 2 <= sum(getattr(pair, name) < 0.05 for pair in pairs) <= 20, name


def test_the_same_systems_do_not_differ() -> None:
    ranks = np.array([1, 0, 5, 9])
    for found in compare_ranks(ranks, ranks).values():
        assert (found.difference, found.low, found.high, found.p_bootstrap, found.p_t_test) == (0, 0, 0, 1, 1)


def test_a_gain_for_everybody_is_certain() -> None:
    found = compare(np.ones(50), np.zeros(50))
    assert (found.low, found.high, found.p_t_test) == (1.0, 1.0, 0.0)
    assert found.p_bootstrap == pytest.approx(2 / 10_001)


def test_seeds_are_averaged_user_by_user() -> None:
    seeds = np.array([[1, 0, 2, 4], [3, 0, 0, 1], [0, 5, 1, 1]])
    baseline = np.array([[2, 0, 0, 0], [0, 9, 0, 0]])
    hits = (seeds > 0).mean(axis=0)
    found, expected = compare_ranks(seeds, baseline)["hr@10"], compare(hits, np.array([0.5, 0.5, 0.0, 0.0]))
    assert found == expected


def test_the_same_ranks_give_the_same_numbers() -> None:
    values, baseline = paired(4, 0.01)
    assert compare(values, baseline) == compare(values, baseline)


@pytest.mark.parametrize("shapes", [(3, 4), (1, 1), (0, 0), ((2, 3, 4), (2, 3, 4))])
def test_unpaired_values_are_refused(shapes: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="same two or more users"):
        compare(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_p_values_are_raised_for_how_many_there_are() -> None:
    # The i-th smallest of n times n / i, and never more than a larger one's.
    assert adjusted([0.04, 0.01, 0.5, 0.02]) == pytest.approx([0.04 * 4 / 3, 0.04, 0.5, 0.04])
    assert adjusted([0.03]) == [0.03]
    assert adjusted([]) == []
