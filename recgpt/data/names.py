"""Readable item names, for showing recalled items to people."""

from __future__ import annotations

from pathlib import Path

from recgpt.data.ids import ids_from_text
from recgpt.data.text import read_lines
from recgpt.errors import DataError
from recgpt.types import ItemId

_EXPECTED = "tab-separated columns, the item's id first and its name last"


def read_item_names(path: str | Path) -> dict[ItemId, str]:
    """Reads a tab-separated file with one header line, plain, .xz or .gz.

    The first column is the item's id, the last its name; columns between them are passed over. Ids are ints if all are
    plain integers, else strs, as in sequence files.

    Raises:
        DataError: the file cannot be read or is empty; the header has fewer than two columns; or a line has another
            number of columns than the header, no id, no name, or the id of an earlier line. Names the line, counted
            from 1.
    """
    path = Path(path)
    header, *lines = read_lines(path, expected=_EXPECTED)
    num_columns = header.count("\t") + 1
    if num_columns < 2:
        raise DataError(f"{path}, line 1: one column, {header!r}; expected a header of {_EXPECTED}")
    names: dict[str, str] = {}
    for number, line in enumerate(lines, start=2):
        fields = line.split("\t")
        if len(fields) != num_columns:
            raise DataError(f"{path}, line {number}: {len(fields)} columns; expected {num_columns}, as in the header")
        token, name = fields[0].strip(), fields[-1].strip()
        if not token or not name:
            raise DataError(f"{path}, line {number}: no {'name' if token else 'id'}; expected {_EXPECTED}")
        if token in names:
            raise DataError(f"{path}, line {number}: item {token!r} has a line already; expected one line an item")
        names[token] = name
    return dict(zip(ids_from_text(list(names)), names.values(), strict=True))
