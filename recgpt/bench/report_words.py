"""Numbers as the report's sentences tell them."""

from __future__ import annotations

from collections.abc import Iterable

from recgpt.bench.results import Fact
from recgpt.bench.tables import significant

NOISE = 0.05
"""Of two times, a difference by no more than this share is told as none."""


def is_faster(ratio: float) -> bool:
    """Whether something is so many times as fast that it is no noise."""
    return ratio > 1 + NOISE


def is_slower(ratio: float) -> bool:
    """Whether something is so few times as fast that it is no noise."""
    return ratio < 1 - NOISE


def listed(values: Iterable[Fact]) -> str:
    """One after the other: ``1 / 32 / 1,000``."""
    return " / ".join(
        significant(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
        for value in values
    )


def spread(values: Iterable[float]) -> str:
    """From the least to the greatest: ``0.24 to 0.83``; one number where they are told alike."""
    ordered = sorted(values)
    return " to ".join(dict.fromkeys((significant(ordered[0]), significant(ordered[-1]))))
