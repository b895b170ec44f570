"""Sequence files: one user a line, ``user item item ...``, oldest item first, plain or compressed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recgpt.data.ids import IdMap, ids_from_text
from recgpt.data.interactions import Interactions
from recgpt.data.text import open_for_writing, read_lines
from recgpt.errors import DataError
from recgpt.files import atomic_path
from recgpt.types import ItemId

_EXPECTED = "'user item item ...', fields separated by spaces"
_BYTE_ORDER_MARK = "\ufeff"


def read_sequences(path: str | Path) -> Interactions:
    """Reads a sequence file (.xz and .gz are uncompressed on the way).

    User ids are ints if every user of the file is a plain integer, else strs; items likewise, on their own. Rows follow
    the sorted ids, so the order of the lines does not matter. An item may occur more than once in a line.

    Raises:
        DataError: the file cannot be read or is empty; or a line is blank, has a user but no items, repeats the user of
            an earlier line, or is not UTF-8. Names the line, counted from 1.
    """
    path = Path(path)
    first_lines: dict[str, int] = {}
    tokens: list[str] = []
    lengths: list[int] = []
    for number, line in enumerate(read_lines(path, expected=_EXPECTED), start=1):
        fields = line.split()
        if len(fields) < 2:
            found = f"user {fields[0]!r} has no items" if fields else "blank"
            raise DataError(f"{path}, line {number}: {found}; expected {_EXPECTED}")
        if (first := first_lines.setdefault(fields[0], number)) != number:
            raise DataError(
                f"{path}, line {number}: user {fields[0]!r} already has line {first}; expected one line a user"
            )
        tokens += fields[1:]
        lengths.append(len(fields) - 1)
    users: list[int] | list[str] = ids_from_text(list(first_lines))
    items: list[int] | list[str] = ids_from_text(tokens)
    user_ids, item_ids = IdMap(sorted(users)), IdMap(sorted(set(items)))
    by_line = np.split(item_ids.rows(items), np.cumsum(lengths)[:-1])
    sequences = tuple(by_line[line] for line in np.argsort(user_ids.rows(users)))
    return Interactions(user_ids=user_ids, item_ids=item_ids, sequences=sequences)


def write_sequences(path: str | Path, interactions: Interactions) -> None:
    """Writes a sequence file, compressed if the name ends in .xz or .gz; wholly or not at all.

    Reading it gives the same interactions, except that items nobody has are gone, and that strs which all look like
    integers come back as ints.

    Raises:
        DataError: an id cannot stand in such a file: it is empty, holds white space, or is no valid text.
        OutputError: the file cannot be written.
    """
    users = [_token(user) for user in interactions.user_ids.ids]
    items = np.array([""] + [_token(item) for item in interactions.item_ids.ids], dtype=object)
    lines = (
        f"{user} {' '.join(items[rows])}\n".encode() for user, rows in zip(users, interactions.sequences, strict=True)
    )
    with atomic_path(Path(path)) as temporary, open_for_writing(temporary) as file:
        file.writelines(lines)


def _token(value: ItemId) -> str:
    token = str(value)
    encodable = not any("\ud800" <= character <= "\udfff" for character in token)
    if token.split() != [token] or _BYTE_ORDER_MARK in token or not encodable:
        raise DataError(f"id {value!r} cannot stand in a sequence file; expected text without white space")
    return token
