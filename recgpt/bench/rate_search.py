"""The highest rate that meets a bound: up a ladder until one fails, then halving the gap. Knows no server.

A generator that yields the rate to be tested and is sent whether it met the bound, so that who tests may block or await
(``recgpt.asking.drive``).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from recgpt.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """What is known of the highest rate.

    Attributes:
        met: the highest tested rate that met the bound and lies below every one that failed; None if none did.
        failed: the lowest tested rate above it that failed; None if the ladder ended before.
    """

    met: float | None
    failed: float | None


def search_rate(ladder: Sequence[float], *, precision: float, lowest: float) -> Generator[float, bool, Bracket]:
    """Asks for tests of rates until the highest that meets the bound is known to a factor.

    Args:
        ladder: ascending rates, tested in this order up to the first that fails.
        precision: stops when the failed rate is at most this many times the met one; above 1.
        lowest: where even the first rung fails, it is halved, but never to less than this.

    Raises:
        ConfigError: the ladder does not ascend from above 0, or the precision is not above 1.
    """
    if not ladder or any(low >= high for low, high in zip([0.0, *ladder], ladder, strict=False)) or precision <= 1:
        raise ConfigError(f"ladder {tuple(ladder)}, precision {precision}: expected ascending rates, and more than 1")
    met: float | None = None
    failed: float | None = None
    for rate in ladder:
        if not (yield rate):
            failed = rate
            break
        met = rate
    while met is None and failed is not None and failed / 2 >= lowest:
        if (yield failed / 2):
            met = failed / 2
        else:
            failed /= 2
    while met is not None and failed is not None and failed / met > precision:
        # The middle of the logarithms, in whole requests where there are enough of them.
        middle = math.sqrt(met * failed)
        rate = round(middle) if middle >= 10 else middle
        if (yield rate):
            met = rate
        else:
            failed = rate
    return Bracket(met=met, failed=failed)
