"""What recall knows of a catalogue: the users' own ids, and what is popular."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from recgpt.data.ids import UNKNOWN_ROW, IdMap
from recgpt.types import Int64Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """Frozen companions of a model's rows.

    Attributes:
        item_ids: rows 1..V.
        user_ids: rows 1..U.
        popularity: (V + 1,) int64, how often each row occurs in the training data; [0] is 0.
        num_added: how many rows at the end came after the training: they can be recalled, and the model does not know
            them.
        deleted: rows that are never recalled; the model still understands them in a history.
    """

    item_ids: IdMap
    user_ids: IdMap
    popularity: Int64Array
    num_added: int = 0
    deleted: frozenset[int] = frozenset()

    @functools.cached_property
    def num_modelled(self) -> int:
        """Rows 1..this are the model's."""
        return len(self.item_ids) - self.num_added

    @property
    def num_recallable(self) -> int:
        """How many items can be recalled."""
        return len(self.item_ids) - len(self.deleted)

    @functools.cached_property
    def popular_rows(self) -> Int64Array:
        """The rows that can be recalled, the most popular first, the lower row first among equals."""
        rows = np.argsort(-self.popularity[1:], kind="stable") + 1
        return rows[~np.isin(rows, list(self.deleted))] if self.deleted else rows

    @functools.cached_property
    def never_found(self) -> frozenset[int]:
        """Rows that no search may give: the deleted ones, and the one of unknown ids."""
        return self.deleted | {UNKNOWN_ROW}

    @functools.cached_property
    def never_generated(self) -> list[int]:
        """Deleted rows that the model knows, ascending."""
        return sorted(row for row in self.deleted if row <= self.num_modelled)
