"""Raw interaction logs: CSV or Parquet with a user, an item and a time column, sorted and filtered into sequences.

A feedback log has a column more: whether the item, which was shown to the user at that time, was clicked.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recgpt.data.columns import Column, read_flags, read_ids, read_times
from recgpt.data.feedback import Unclicked
from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.data.text import content_suffix, open_for_reading
from recgpt.errors import ConfigError, DataError
from recgpt.extras import require
from recgpt.types import Int64Array

_PARQUET = ".parquet"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
LOG_SUFFIXES = (*_DELIMITERS, _PARQUET)


def read_logs(
    path: str | Path, *, user: str, item: str, timestamp: str, clicked: str | None = None, min_count: int = 5
) -> Interactions:
    """Reads a raw log: one interaction a row, in any order.

    A user's items are sorted by time, rows of equal time staying in file order; every row counts, repeats too. Then the
    k-core filter takes away users and items with fewer than ``min_count`` rows until none is left. Rows of the result
    follow the sorted ids.

    Of a feedback log the clicked rows are the interactions. The others are kept beside them as ``unclicked``, if the
    filter left their user and item: an item that nobody clicks is no candidate, and so no token. At equal times clicks
    stand first, since what was shown together with a click was not yet passed over. A row that repeats another one in
    all four columns is the same event written twice, and counts once.

    Args:
        path: .csv or .tsv with a header line (both also .xz or .gz), or .parquet.
        user: name of the user column: ints or strings. In text files, ids are ints if all of the column are plain
            integers, else strs.
        item: name of the item column, likewise.
        timestamp: name of the time column: ints, finite floats, dates or times (in text: ISO 8601).
        clicked: name of a feedback log's column of 0 and 1, or false and true; None if every row is an interaction.
        min_count: k of the k-core filter, at least 1; 1 keeps everything.

    Raises:
        DataError: the file cannot be read, a column does not exist or is of the wrong type, a value is missing or none
            of its kind, or the filter leaves nothing. Names the column and, where there is one, the row.
        ConfigError: ``min_count`` is below 1.
    """
    if min_count < 1:
        raise ConfigError(f"min_count = {min_count!r}: expected at least 1")
    path = Path(path)
    names = (user, item, timestamp) if clicked is None else (user, item, timestamp, clicked)
    users, items, times, *flags = _read_columns(path, names)
    user_codes, user_values = read_ids(users)
    item_codes, item_values = read_ids(items)
    if flags:
        is_click = read_flags(flags[0])
        order = _feedback_order(user_codes, item_codes, read_times(times), is_click)
    else:
        is_click = np.ones(len(user_codes), dtype=np.bool_)
        order = np.argsort(read_times(times), kind="stable")
    clicks = order[is_click[order]]
    kept = clicks[k_core(user_codes[clicks], item_codes[clicks], min_count)]
    if not len(kept):
        raise DataError(
            f"{path}: of {len(clicks)} interactions of {len(user_values)} users with {len(item_values)} items none is "
            f"left, since every user and item has to have at least min_count = {min_count}; lower min_count"
        )
    user_ids, user_rows = _number(user_codes, kept, user_values)
    item_ids, item_rows = _number(item_codes, kept, item_values)
    kept = kept[np.argsort(user_rows[kept], kind="stable")]
    interactions = Interactions.from_flat(user_ids, item_ids, item_rows[kept], np.bincount(user_rows[kept])[1:])
    if not flags:
        return interactions
    left = ~is_click & (user_rows > 0) & (item_rows > 0)
    left[kept] = True
    events = order[left[order]]
    unclicked = _unclicked(user_rows[events], item_rows[events], is_click[events])
    return dataclasses.replace(interactions, unclicked=unclicked)


def k_core(user_codes: Int64Array, item_codes: Int64Array, min_count: int) -> Int64Array:
    """Finds the largest part of a log in which every user and every item has at least ``min_count`` interactions.

    Args:
        user_codes: (N,) int64, from 0.
        item_codes: (N,) int64, from 0.
        min_count: at least 1.

    Returns:
        positions int64, ascending, of the interactions that stay; maybe none.
    """
    kept = np.arange(len(user_codes), dtype=np.int64)
    while len(kept):
        users, items = user_codes[kept], item_codes[kept]
        enough = (np.bincount(users)[users] >= min_count) & (np.bincount(items)[items] >= min_count)
        if enough.all():
            break
        kept = kept[enough]
    return kept


def column_names(path: Path) -> list[str]:
    """Names of a raw log's columns, in the file's order; DataError if it cannot be read as its suffix says."""
    suffix = content_suffix(path)
    if suffix not in LOG_SUFFIXES:
        raise DataError(f"{path}: expected a raw log, which ends in {', '.join(LOG_SUFFIXES)}")
    if suffix == _PARQUET:
        return list(_read_parquet(path).schema_arrow.names)
    try:
        # The wrapper decodes further than the header, and what is wrong there is for the reader of the rows to tell.
        with open_for_reading(path) as file, io.TextIOWrapper(file, "utf-8-sig", "replace", newline="") as text:
            return next(csv.reader(text, delimiter=_DELIMITERS[suffix]))
    except StopIteration:
        raise DataError(f"{path}: empty; expected a header line with the names of the columns") from None
    except csv.Error as error:
        raise DataError(f"{path}: no readable header line ({error}); expected UTF-8 text with column names") from error


def _number(codes: Int64Array, kept: Int64Array, values: Any) -> tuple[IdMap, Int64Array]:
    """Ids of the kept positions, and the row of every position: 0 where the id is none of them."""
    ids = IdMap(sorted(values[code] for code in np.unique(codes[kept])))
    return ids, ids.rows(values)[codes]


def _feedback_order(
    user_codes: Int64Array, item_codes: Int64Array, times: NDArray[Any], is_click: NDArray[np.bool_]
) -> Int64Array:
    """Positions of the distinct events in time order, clicks first among equal times, else as in the file."""
    moments = np.unique(times, return_inverse=True)[1]
    _, first = np.unique(np.stack([user_codes, item_codes, moments, is_click]), axis=1, return_index=True)
    distinct = np.sort(first)
    order: Int64Array = distinct[np.lexsort((~is_click[distinct], moments[distinct]))]
    return order


def _unclicked(user_rows: Int64Array, item_rows: Int64Array, is_click: NDArray[np.bool_]) -> tuple[Unclicked, ...]:
    """What each user did not click, of events in time order, of which each user has at least one."""
    by_user = np.argsort(user_rows, kind="stable")
    ends = np.cumsum(np.bincount(user_rows)[1:])[:-1]
    users = zip(np.split(item_rows[by_user], ends), np.split(is_click[by_user], ends), strict=True)
    return tuple(
        Unclicked(item_rows=items[~clicked], num_before=np.cumsum(clicked)[~clicked]) for items, clicked in users
    )


def _read_columns(path: Path, names: tuple[str, ...]) -> list[Column]:
    pa, existing = require("pyarrow"), column_names(path)
    for name in names:
        if existing.count(name) != 1:
            found = f"no column {name!r}" if name not in existing else f"{existing.count(name)} columns {name!r}"
            raise DataError(f"{path}: {found}; its columns are: {', '.join(existing)}")
    is_text = content_suffix(path) != _PARQUET
    distinct = list(dict.fromkeys(names))
    try:
        table = _read_text_table(path, distinct) if is_text else _read_parquet(path).read(columns=distinct)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as {content_suffix(path)}: {error}") from error
    if not len(table):
        raise DataError(f"{path}: a header and no rows; expected one row an interaction")
    return [Column(path=path, name=name, values=table[name], is_text=is_text) for name in names]


def _read_text_table(path: Path, names: list[str]) -> Any:
    pa, pacsv = require("pyarrow"), require("pyarrow.csv")
    broken: list[Any] = []

    def note_broken(row: Any) -> str:
        broken.append(row)
        return "error"

    # All columns are read as text: pyarrow's guess would take the id 007 for 7, and NA for a missing value.
    convert = pacsv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False
    )
    parse = pacsv.ParseOptions(
        delimiter=_DELIMITERS[content_suffix(path)],
        newlines_in_values=True,
        invalid_row_handler=note_broken,
    )
    # One thread, because only then does pyarrow know the number of a broken row.
    read = pacsv.ReadOptions(use_threads=False)
    try:
        with open_for_reading(path) as file:
            return pacsv.read_csv(file, read_options=read, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid as error:
        if not broken:
            raise
        row = broken[0]
        raise DataError(
            f"{path}: row {row.number}: {row.actual_columns} columns; expected {row.expected_columns}, as in the header"
        ) from error


def _read_parquet(path: Path) -> Any:
    pa, parquet = require("pyarrow"), require("pyarrow.parquet")
    try:
        return parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as a Parquet file: {error}") from error
