"""Whether one system is better than another beyond chance: paired over users, who are what a test set samples.

Several seeds of a system are averaged first, user by user, so that a user counts once however many models were trained.
Interval and p-values then say how sure the difference of these models' means is over users; how much a mean moves with
the seed is another question, which the deviation over seeds answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recgpt.errors import DataError
from recgpt.metrics import gains_at_k, hits_at_k
from recgpt.types import Int64Array

Float64Array = NDArray[np.float64]

CONFIDENCE = 0.95
LEVEL = 0.05
NUM_RESAMPLES = 10_000
SEED = 0

# Numbers drawn at once, to bound memory.
_MAX_DRAWN = 10_000_000


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """One metric of two systems on the same users.

    Attributes:
        mean: of the system.
        baseline: mean of the other one.
        difference: mean - baseline.
        low: lower end of the difference's 95 % bootstrap interval.
        high: its upper end.
        p_bootstrap: two-sided; at least 2 / (number of resamples + 1).
        p_t_test: two-sided, of the paired t-test.
        num_users: N.
    """

    mean: float
    baseline: float
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_t_test: float
    num_users: int


def compare_ranks(
    ranks: Int64Array, baseline: Int64Array, *, cutoffs: Sequence[int] = (10,)
) -> dict[str, PairedDifference]:
    """Compares hit rate and NDCG of two systems.

    Args:
        ranks: (N,) or, of S seeds, (S, N) 1-based ranks of the targets of N users; 0 = not found.
        baseline: (N,) or (S', N), of the same users in the same order.
        cutoffs: k of the metrics.

    Returns:
        ``hr@k`` and ``ndcg@k`` of each cut-off.

    Raises:
        DataError: not the same users, or fewer than two.
    """
    compared = {}
    for k in cutoffs:
        compared[f"hr@{k}"] = compare(_by_user(hits_at_k(ranks, k)), _by_user(hits_at_k(baseline, k)))
        compared[f"ndcg@{k}"] = compare(_by_user(gains_at_k(ranks, k)), _by_user(gains_at_k(baseline, k)))
    return compared


def compare(values: Float64Array, baseline: Float64Array) -> PairedDifference:
    """Paired bootstrap and t-test of the mean of any metric that has one value a user.

    Source: Efron and Tibshirani 1993, percentile interval of the mean difference over resampled users, and the p-value
    at which that interval would end at 0; Smucker, Allan and Carterette 2007 on both tests for retrieval.

    Args:
        values: (N,) float64, of the system.
        baseline: (N,) float64, of the same users.

    Raises:
        DataError: not the same users, or fewer than two.
    """
    if values.shape != baseline.shape or values.ndim != 1 or len(values) < 2:
        raise DataError(
            f"values of shape {values.shape} against {baseline.shape}: expected one value for each of the same two or "
            "more users on both sides"
        )
    differences = values - baseline
    means = _resampled_means(differences)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    not_above, not_below = (means <= 0).sum(), (means >= 0).sum()
    return PairedDifference(
        mean=float(values.mean()),
        baseline=float(baseline.mean()),
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_bootstrap=min(1.0, 2 * (1 + int(min(not_above, not_below))) / (NUM_RESAMPLES + 1)),
        p_t_test=_t_test(differences),
        num_users=len(values),
    )


def adjusted(p_values: Sequence[float]) -> list[float]:
    """The same p-values, raised for how many were looked at: below 0.05, at most 5 % of such finds are chance.

    Source: Benjamini and Hochberg 1995, "Controlling the false discovery rate".
    """
    return [float(value) for value in stats.false_discovery_control(p_values)] if len(p_values) else []


def _by_user(values: Float64Array) -> Float64Array:
    return values.mean(axis=0) if values.ndim == 2 else values


def _resampled_means(differences: Float64Array) -> Float64Array:
    """Means of NUM_RESAMPLES samples of N differences with replacement.

    Most users do not differ, so how many of a sample do is drawn first, and then only which.
    """
    num_users, differing = len(differences), differences[differences != 0]
    rng = np.random.default_rng(SEED)
    size = max(1, _MAX_DRAWN // max(1, len(differing)))
    means = np.zeros(NUM_RESAMPLES)
    for start in range(0, NUM_RESAMPLES if len(differing) else 0, size):
        num = min(size, NUM_RESAMPLES - start)
        num_differing = rng.binomial(num_users, len(differing) / num_users, size=num)
        drawn = differing[rng.integers(0, len(differing), num_differing.sum())]
        sums = np.bincount(np.repeat(np.arange(num), num_differing), weights=drawn, minlength=num)
        means[start : start + num] = sums / num_users
    return means


def _t_test(differences: Float64Array) -> float:
    if np.ptp(differences) == 0:  # no spread, so no t: the same for everybody
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0.0).pvalue)
