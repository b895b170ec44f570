"""Who interacted with what, in which order: the one form that every reader makes and training takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recgpt.data.feedback import Unclicked
from recgpt.data.ids import IdMap
from recgpt.errors import DataError
from recgpt.types import Int64Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Interactions:
    """Users' item sequences.

    Attributes:
        user_ids: of users 1..U.
        item_ids: of items 1..V.
        sequences: U arrays of item rows, int64, oldest first, none empty; user row u is ``sequences[u - 1]``.
        unclicked: what each of the U users was shown and did not click; None where the data does not tell.

    Raises:
        DataError: the number of sequences is not U, one is empty, a row is not in 1..V, or an unclicked item stands
            after more behaviours than there are.
    """

    user_ids: IdMap
    item_ids: IdMap
    sequences: tuple[Int64Array, ...]
    unclicked: tuple[Unclicked, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.sequences) != len(self.user_ids):
            raise DataError(f"{len(self.sequences)} sequences for {len(self.user_ids)} users; expected one a user")
        if not all(map(len, self.sequences)):
            raise DataError("a user has no items; expected at least one")
        self._check_rows(self.sequences)
        if self.unclicked is not None:
            self._check_unclicked(self.unclicked)

    def _check_unclicked(self, unclicked: tuple[Unclicked, ...]) -> None:
        if len(unclicked) != len(self.sequences):
            raise DataError(
                f"unclicked items of {len(unclicked)} users; expected {len(self.sequences)}, one entry a user"
            )
        self._check_rows([shown.item_rows for shown in unclicked])
        for items, shown in zip(self.sequences, unclicked, strict=True):
            if shown.num_before.max(initial=0) > len(items):
                raise DataError(
                    f"an unclicked item after {shown.num_before.max()} behaviours of a user who has {len(items)}; "
                    "expected at most as many"
                )

    def _check_rows(self, sequences: Sequence[Int64Array]) -> None:
        rows = _flat(sequences)
        lowest, highest = rows.min(initial=1), rows.max(initial=1)
        if lowest < 1 or highest > max(self.num_items, 1):
            raise DataError(f"item rows {lowest} to {highest}; expected them within 1 to {self.num_items}")

    @classmethod
    def from_flat(cls, user_ids: IdMap, item_ids: IdMap, item_rows: Int64Array, lengths: Int64Array) -> Interactions:
        """Cuts one long array into sequences.

        Args:
            user_ids: U users.
            item_ids: V items.
            item_rows: (sum of lengths,) int64, user after user, oldest first.
            lengths: (U,) int64.
        """
        sequences = tuple(np.split(item_rows, np.cumsum(lengths)[:-1])) if len(lengths) else ()
        return cls(user_ids=user_ids, item_ids=item_ids, sequences=sequences)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """V, padding not counted."""
        return len(self.item_ids)

    @property
    def num_interactions(self) -> int:
        """Actions in all sequences together, repeats included; unclicked items are none."""
        return sum(map(len, self.sequences))

    def digest(self) -> str:
        """Hex SHA-256 of ids, sequences and unclicked items: the same for the same data, whatever file it came from."""
        digest = hashlib.sha256()
        for ids in (self.user_ids, self.item_ids):
            digest.update(json.dumps(ids.ids).encode())
        parts: list[Sequence[Int64Array]] = [self.sequences]
        if self.unclicked is not None:
            parts.append([shown.item_rows for shown in self.unclicked])
            parts.append([shown.num_before for shown in self.unclicked])
        for part in parts:
            digest.update(np.array([len(rows) for rows in part], dtype="<i8").tobytes())
            for rows in part:
                digest.update(rows.astype("<i8").tobytes())
        return digest.hexdigest()

    def popularity(self, sequences: Sequence[Int64Array]) -> Int64Array:
        """How often each item occurs in some sequences of these rows, such as the training parts.

        Returns:
            (V + 1,) int64, indexed by row; entry 0 is 0.
        """
        return np.bincount(_flat(sequences), minlength=self.num_items + 1).astype(np.int64)


def _flat(sequences: Sequence[Int64Array]) -> Int64Array:
    return np.concatenate(sequences) if len(sequences) else np.empty(0, dtype=np.int64)
