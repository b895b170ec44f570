"""What recall knows of a catalogue: the users' own ids, and what is popular."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from recgpt.data.ids import IdMap
from recgpt.types import Int64Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """Frozen companions of a model's rows.

    Attributes:
        item_ids: rows 1..V.
        user_ids: rows 1..U.
        popularity: (V + 1,) int64, how often each row occurs in the training data; [0] is 0.
    """

    item_ids: IdMap
    user_ids: IdMap
    popularity: Int64Array

    @functools.cached_property
    def popular_rows(self) -> Int64Array:
        """Rows 1..V, the most popular first, the lower row first among equals."""
        return np.argsort(-self.popularity[1:], kind="stable") + 1
