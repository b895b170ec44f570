"""Samples in interleaved rounds: AA BB CC, CC AA BB. What slows the machine for a while slows every case alike.

Knows callables that time themselves; not what they do.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

PERCENTILES = (50, 90, 99)
NS_PER_MS = 1e6


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One timed call.

    Attributes:
        total_ns: the whole call.
        stages_ns: where it went, by stage; sums to ``total_ns`` where every stage is known.
    """

    total_ns: int
    stages_ns: Mapping[str, int] = field(default_factory=dict)


# Called with the number of a round, by which it picks its input, so that all cases of a round do the same work.
Case = Callable[[int], Sample]


def interleave(
    cases: Mapping[str, Case], *, num_rounds: int, num_warmup: int, done: Callable[[], None] = lambda: None
) -> dict[str, list[Sample]]:
    """Calls every case twice in a row in each round, the second time for a sample, in an order drawn anew each time.

    In use nothing else runs between the calls, so what other cases left in the caches must not count; that is what the
    first call is for, on the input of the round before. The draws are the same each time.

    What was loaded before is kept out of Python's collection of garbage, as docs/serving.md advises: else calls wait
    while it looks through what only the comparison loads.

    Args:
        cases: name -> what to call.
        num_rounds: samples to keep of each case.
        num_warmup: rounds before them whose samples are thrown away; they run on the first inputs.
        done: called after each round, warm-up included.

    Returns:
        name -> ``num_rounds`` samples in the order they were taken.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    order, draws = list(cases), random.Random(0)
    gc.collect()
    gc.freeze()
    try:
        for number in range(-num_warmup, num_rounds):
            draws.shuffle(order)
            for name in order:
                cases[name](max(number - 1, 0))
                sample = cases[name](max(number, 0))
                if number >= 0:
                    samples[name].append(sample)
            done()
    finally:
        gc.unfreeze()
    return samples


def percentiles_ms(samples_ns: Sequence[int]) -> dict[str, float]:
    """``{"p50", "p90", "p99"}`` in ms of times in ns, at least one; linear between samples as ``numpy.percentile``."""
    values = np.percentile(np.asarray(samples_ns, dtype=np.float64), PERCENTILES) / NS_PER_MS
    return {f"p{percent}": float(value) for percent, value in zip(PERCENTILES, values, strict=True)}
