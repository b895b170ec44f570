"""Paired differences as a report tells them: as cells of a table, and judged together with the others of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recgpt.bench.quality_tables import number
from recgpt.bench.significance import LEVEL, adjusted

COLUMNS = ("difference", "95 %", "p", "adjusted p")
"""Of ``Tested.cells``."""


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One of several differences that were tested.

    Attributes:
        found: as ``PairedDifference`` in JSON.
        p: the bootstrap's p-value, adjusted for the number of differences.
    """

    found: Mapping[str, Any]
    p: float

    @property
    def sign(self) -> int:
        """1 where it is above 0 beyond noise, -1 where it is below, else 0."""
        if self.p >= LEVEL:
            return 0
        return 1 if self.found["difference"] > 0 else -1

    @property
    def cells(self) -> tuple[str, ...]:
        """Difference, interval, p and adjusted p."""
        found = self.found
        interval = f"{found['low']:+.4f} to {found['high']:+.4f}"
        return (f"{found['difference']:+.4f}", interval, _p_value(found["p_bootstrap"]), _p_value(self.p))

    @property
    def cell(self) -> str:
        """Difference, interval and adjusted p."""
        difference, interval, _, p = self.cells
        return f"{difference} ({interval}), {p}"


def judged(differences: Sequence[Mapping[str, Any]]) -> list[Tested]:
    """All differences of one table."""
    p_values = adjusted([found["p_bootstrap"] for found in differences])
    return [Tested(found=found, p=p) for found, p in zip(differences, p_values, strict=True)]


def _p_value(p: float) -> str:
    return number(p, digits=3) if p >= 0.001 else "< .001"
