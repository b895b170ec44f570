"""Columns of a raw log, as pyarrow gives them, turned into ids and times. Knows no file formats."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recgpt.data.ids import ids_from_text
from recgpt.errors import DataError
from recgpt.extras import require
from recgpt.types import Int64Array

_DIGITS = re.compile(r"[+-]?[0-9]+", re.ASCII)
_IDS_EXPECTED = "expected ints or strings"
_FLAG_EXPECTED = "expected 0 or 1, false or true"
_FLAGS = {"0": False, "1": True, "false": False, "true": True}
_TIME_EXPECTED = "expected ints, finite numbers, or ISO times such as 2024-05-01T12:00:00, one kind in all rows"


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """One column and where it comes from.

    Attributes:
        path: the file.
        name: the column's name in the file.
        values: a ``pyarrow.ChunkedArray``.
        is_text: the file holds text only (CSV), so that the values, all strings, do not tell the type meant.
    """

    path: Path
    name: str
    values: Any
    is_text: bool

    def error(self, problem: str, position: int | None = None) -> DataError:
        """A DataError that names file, column and, if a position (from 0) is given, the row.

        Rows are counted as an editor shows them: in a text file the header is row 1, elsewhere the first values are.
        """
        row = "" if position is None else f" row {position + (2 if self.is_text else 1)},"
        return DataError(f"{self.path}:{row} column {self.name!r}: {problem}")


def read_ids(column: Column) -> tuple[Int64Array, Sequence[int | str]]:
    """Ids of a column.

    Returns:
        codes (N,) int64, one a row, and the distinct ids they point to, in no particular order.

    Raises:
        DataError: the column is of another type than int or string, or a value is missing.
    """
    pa, values = require("pyarrow"), _decoded(column.values)
    is_string = _is_string(values.type)
    if not is_string and not pa.types.is_integer(values.type):
        raise column.error(f"holds values of type {values.type}; {_IDS_EXPECTED}")
    _refuse_missing(column, values, f"no id; {_IDS_EXPECTED}")
    # large_string, since the text of one long column may pass the 2 GiB that string can address.
    encoded = values.cast(pa.large_string() if is_string else values.type).combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    distinct = encoded.dictionary.to_pylist()
    return codes, _ids_of_csv(column, distinct) if column.is_text else distinct


def read_times(column: Column) -> NDArray[Any]:
    """Times of a column, (N,) numbers or datetime64 that sort in time order.

    Raises:
        DataError: the column's type is no time, or a value is missing, not finite, or of another kind than the others.
    """
    pa, values = require("pyarrow"), _decoded(column.values)
    types = pa.types
    if _is_string(values.type):
        _refuse_missing(column, values, f"no time; {_TIME_EXPECTED}")
        values = _parse_times(column, values)
    known = (types.is_integer, types.is_floating, types.is_timestamp, types.is_date)
    if not any(is_type(values.type) for is_type in known):
        raise column.error(f"holds values of type {values.type}; {_TIME_EXPECTED}")
    _refuse_missing(column, values, f"no time; {_TIME_EXPECTED}")
    times: NDArray[Any] = values.to_numpy()
    if types.is_floating(values.type) and not np.isfinite(times).all():
        position = int(np.argmin(np.isfinite(times)))
        raise column.error(f"{times[position]} is no time; {_TIME_EXPECTED}", position)
    return times


def read_flags(column: Column) -> NDArray[np.bool_]:
    """Yes or no of a column, (N,) bool: booleans, ints 0 and 1, or text 0, 1, false, true in any case.

    Raises:
        DataError: the column is of another type, or a value is missing or another one.
    """
    pa, values = require("pyarrow"), _decoded(column.values)
    types = pa.types
    if not (_is_string(values.type) or types.is_boolean(values.type) or types.is_integer(values.type)):
        raise column.error(f"holds values of type {values.type}; {_FLAG_EXPECTED}")
    _refuse_missing(column, values, f"no value; {_FLAG_EXPECTED}")
    encoded = values.cast(pa.large_string()).combine_chunks().dictionary_encode()
    codes, texts = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    flags = [_FLAGS.get(text.lower()) for text in texts]
    if None in flags:
        position = int(np.argmax(codes == flags.index(None)))
        raise column.error(f"{texts[flags.index(None)]!r} is neither yes nor no; {_FLAG_EXPECTED}", position)
    found: NDArray[np.bool_] = np.array(flags, dtype=np.bool_)[codes]
    return found


def _ids_of_csv(column: Column, tokens: list[str]) -> Sequence[int | str]:
    ids = ids_from_text(tokens)
    if ids and isinstance(ids[0], str) and not all(map(_DIGITS.fullmatch, tokens)):
        pa = require("pyarrow")
        values = pa.chunked_array([tokens], type=pa.large_string())
        kinds = {pa.float64(): "floating-point numbers"} | dict.fromkeys(_time_types(), "dates or times")
        for type_, kind in kinds.items():
            if _parses(values, type_):
                raise column.error(f"holds {kind} such as {tokens[0]}; {_IDS_EXPECTED}")
    return ids


def _parse_times(column: Column, values: Any) -> Any:
    pa = require("pyarrow")
    # All rows have to be of one kind: a number among ISO times has no place in their order.
    parsed = {}
    for type_ in (pa.int64(), pa.float64(), *_time_types()):
        parsed[type_] = _num_parsed(values, type_)
        if parsed[type_] == len(values):
            return values.cast(type_)
    position = max(parsed.values())
    raise column.error(f"{values[position].as_py()!r} is no time; {_TIME_EXPECTED}", position)


def _time_types() -> list[Any]:
    pa = require("pyarrow")
    # Text with a UTC offset and text without do not parse as one type; microseconds reach further, nanoseconds finer.
    return [pa.timestamp(unit, zone) for unit in ("us", "ns") for zone in (None, "UTC")]


def _num_parsed(values: Any, type_: Any) -> int:
    """How many values from the start on parse as a type."""
    if _parses(values, type_):
        return len(values)
    # A part that parses cannot hold the first value that does not, so halving finds it.
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _parses(values.slice(low, middle - low), type_) else (low, middle)
    return low


def _parses(values: Any, type_: Any) -> bool:
    try:
        values.cast(type_)
    except require("pyarrow").ArrowInvalid:
        return False
    return True


def _decoded(values: Any) -> Any:
    types: Any = require("pyarrow").types
    return values.cast(values.type.value_type) if types.is_dictionary(values.type) else values


def _is_string(type_: Any) -> bool:
    types: Any = require("pyarrow").types
    tests: tuple[Callable[[Any], bool], ...] = (types.is_string, types.is_large_string, types.is_string_view)
    return any(is_type(type_) for is_type in tests)


def _refuse_missing(column: Column, values: Any, problem: str) -> None:
    compute = require("pyarrow.compute")
    missing = values.is_null()
    if _is_string(values.type):
        missing = compute.or_kleene(missing, compute.equal(values, ""))
    position = compute.index(missing, True).as_py()
    if position >= 0:
        raise column.error(problem, position)
