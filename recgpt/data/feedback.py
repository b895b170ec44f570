"""Items that were shown and not clicked, and histories with them. Knows rows and order, no times, no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recgpt.errors import DataError
from recgpt.types import BEHAVIOUR, PROMPT, Int64Array, PromptedHistory


@dataclass(frozen=True, kw_only=True, eq=False)
class Unclicked:
    """What one user was shown and did not click, oldest first.

    Attributes:
        item_rows: (M,) int64.
        num_before: (M,) int64, how many of the user's behaviours came before each was shown; ascending.

    Raises:
        DataError: the two differ in length, or ``num_before`` is not ascending from 0 on.
    """

    item_rows: Int64Array
    num_before: Int64Array

    def __post_init__(self) -> None:
        if self.item_rows.shape != self.num_before.shape:
            raise DataError(
                f"{len(self.item_rows)} unclicked items at {len(self.num_before)} places; expected one place an item"
            )
        if (np.diff(self.num_before, prepend=0) < 0).any():
            raise DataError(f"unclicked items after {self.num_before.tolist()} behaviours; expected them oldest first")

    def before(self, num_behaviours: int) -> Unclicked:
        """What was shown before the behaviour that follows the first ``num_behaviours``."""
        num_shown = np.searchsorted(self.num_before, num_behaviours, side="right")
        return Unclicked(item_rows=self.item_rows[:num_shown], num_before=self.num_before[:num_shown])


def with_unclicked(items: Int64Array, unclicked: Unclicked, max_between: int) -> PromptedHistory:
    """The first of a user's behaviours with the unclicked items shown before the next one, as prompts.

    Args:
        items: (n,) int64 rows, the user's first n behaviours.
        unclicked: of the same user. What was shown after behaviour n + 1 is not used.
        max_between: K, the most unclicked items between two behaviours; of more, the newest stay.

    Returns:
        Item rows and segments in time order, both int64.
    """
    shown = unclicked.before(len(items))
    rows, places = shown.item_rows, shown.num_before
    num_newer = np.searchsorted(places, places, side="right") - np.arange(len(places)) - 1
    newest = num_newer < max_between
    rows, places = rows[newest], places[newest]
    return np.insert(items, places, rows), np.insert(np.full_like(items, BEHAVIOUR), places, PROMPT)
