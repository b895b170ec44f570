"""The border between a user's own ids and the dense rows that everything behind it counts in. Knows no files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from recgpt.errors import DataError, RequestError
from recgpt.types import Int64Array, ItemId

UNKNOWN_ROW = 0

# Only the way Python itself writes a number counts: with "007" read as 7, the ids "007" and "7" would become one.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)


class IdMap:
    """Ids in row order: the first id has row 1. Row 0 is padding, and the answer for every unknown id.

    Immutable. Two maps are equal if they hold the same ids in the same order.

    Args:
        ids: distinct, all int (numpy integers included) or all str; bool is neither.

    Raises:
        DataError: an id of another type, two types mixed, or an id that occurs twice.
    """

    __slots__ = ("_ids", "_rows")

    def __init__(self, ids: Sequence[ItemId]) -> None:
        plain = tuple(_plain(value) for value in ids)
        kinds = {type(value) for value in plain}
        if len(kinds) > 1:
            raise DataError("ids are ints and strs mixed; expected all of one type")
        self._ids: tuple[ItemId, ...] = plain
        self._rows: dict[ItemId, int] = {value: row for row, value in enumerate(plain, start=1)}
        if len(self._rows) < len(plain):
            twice = next(value for row, value in enumerate(plain, start=1) if self._rows[value] != row)
            raise DataError(f"id {twice!r} occurs twice; expected distinct ids")

    @property
    def ids(self) -> tuple[ItemId, ...]:
        """All ids, row 1 first."""
        return self._ids

    def rows(self, ids: Iterable[object]) -> Int64Array:
        """Rows of ids, int64, one each; 0 where an id is unknown, which one of the other type always is."""
        values = ids.tolist() if isinstance(ids, np.ndarray) else ids
        return np.array([self.row(value) for value in values], dtype=np.int64)

    def row_list(self, ids: Iterable[ItemId]) -> list[int]:
        """As ``rows``, in a list, of ids that are ints and strs themselves: for a few by far the cheaper form."""
        row_of = self._rows.get
        return [row_of(value, UNKNOWN_ROW) for value in ids]

    def row(self, value: object) -> int:
        """Row of an id; 0 if it is unknown."""
        # The type comes first, since True and 1.0 would be found under the key 1. Asking for the exact one is cheaper.
        if type(value) is int or type(value) is str:
            return self._rows.get(value, UNKNOWN_ROW)
        if isinstance(value, bool) or not isinstance(value, int | str | np.integer):
            return UNKNOWN_ROW
        return self._rows.get(int(value) if isinstance(value, np.integer) else value, UNKNOWN_ROW)

    def id(self, row: int) -> ItemId:
        """The id of a row, 1..len; IndexError for any other."""
        if not 1 <= row <= len(self._ids):
            raise IndexError(f"row {row} has no id; expected 1 to {len(self._ids)}")
        return self._ids[row - 1]

    def ids_of(self, rows: Sequence[int]) -> tuple[ItemId, ...]:
        """The ids of rows, each 1..len; IndexError if one is not."""
        if rows and min(rows) < 1:
            raise IndexError(f"row {min(rows)} has no id; expected 1 to {len(self)}")
        ids = self._ids
        return tuple([ids[row - 1] for row in rows])

    def parse(self, text: str) -> ItemId:
        """An id typed by a person, of the type that this map's ids have; it need not be in the map.

        Raises:
            RequestError: the ids are ints and the text is none.
        """
        if not self._ids or isinstance(self._ids[0], str):
            return text
        if _INTEGER.fullmatch(text) is None:
            raise RequestError(f"id {text!r}: expected a whole number such as {self._ids[0]}, as in the training data")
        return int(text)

    def __len__(self) -> int:
        return len(self._ids)

    def __eq__(self, other: object) -> bool:
        return self._ids == other._ids if isinstance(other, IdMap) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._ids)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self._ids[:3]))
        return f"IdMap({len(self)} ids: {shown}{', ...' if len(self) > 3 else ''})"


def ids_from_text(tokens: Sequence[str]) -> list[int] | list[str]:
    """Ids as a text file means them: ints if every token is a plain integer of up to 19 digits, else the tokens."""
    if all(map(_INTEGER.fullmatch, set(tokens))):
        return [int(token) for token in tokens]
    return list(tokens)


def _plain(value: object) -> ItemId:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise DataError(f"id {value!r} is a {type(value).__name__}; expected an int or a str")
