"""IdMap: ids to rows and back, and what is unknown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recgpt.data.ids import IdMap, ids_from_text
from recgpt.errors import DataError, RequestError

IDS = st.lists(st.integers(), unique=True) | st.lists(st.text(), unique=True)


@given(IDS)
def test_rows_are_one_to_n_in_the_given_order(ids):
    ids_to_rows = IdMap(ids)
    assert ids_to_rows.rows(ids).tolist() == list(range(1, len(ids) + 1))
    assert [ids_to_rows.id(row) for row in range(1, len(ids) + 1)] == ids
    assert ids_to_rows.ids == tuple(ids)
    assert len(ids_to_rows) == len(ids)


@pytest.mark.parametrize("unknown", ["1", "7", 7, True, False, 1.0, None, [1], (1,), b"1"])
def test_whatever_is_not_an_id_of_an_int_map_has_row_0(unknown):
    assert IdMap([1, 2]).rows([2, unknown, 1]).tolist() == [2, 0, 1]


@pytest.mark.parametrize("unknown", [1, "2", True, b"1", None])
def test_whatever_is_not_an_id_of_a_str_map_has_row_0(unknown):
    assert IdMap(["1", "a"]).rows([unknown, "a"]).tolist() == [0, 2]


def test_numpy_integers_and_strings_are_ids():
    assert IdMap(np.array([30, 10], dtype=np.int32)).ids == (30, 10)
    assert IdMap([30, 10]).rows([np.int32(10), np.uint8(30), np.bool_(True)]).tolist() == [2, 1, 0]
    assert IdMap([30, 10]).rows(np.array([[10, 30]])[0]).tolist() == [2, 1]
    assert IdMap(np.array(["b", "a"])).rows([np.str_("a")]).tolist() == [2]


def test_rows_of_nothing_is_an_empty_int64_array():
    rows = IdMap([1]).rows([])
    assert (rows.shape, rows.dtype) == ((0,), np.int64)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, "1"], "mixed"),
        ([3, 4, 3], "id 3 occurs twice"),
        (["a", "a"], "id 'a' occurs twice"),
        ([1, True], "True is a bool"),
        ([1.0], "1.0 is a float"),
        ([None], "None is a NoneType"),
    ],
)
def test_a_map_takes_distinct_ids_of_one_type_only(ids, message):
    with pytest.raises(DataError, match=message):
        IdMap(ids)


@pytest.mark.parametrize("row", [0, 3, -1])
def test_rows_out_of_range_have_no_id(row):
    with pytest.raises(IndexError, match="expected 1 to 2"):
        IdMap([1, 2]).id(row)


def test_maps_with_equal_ids_in_equal_order_are_equal():
    assert IdMap([1, 2]) == IdMap((1, 2))
    assert hash(IdMap([1, 2])) == hash(IdMap((1, 2)))
    assert IdMap([1, 2]) != IdMap([2, 1])
    assert IdMap(["1"]) != IdMap([1])
    assert IdMap([1]) != (1,)


def test_repr_stays_short():
    assert repr(IdMap(range(1, 1000))) == "IdMap(999 ids: 1, 2, 3, ...)"
    assert repr(IdMap(["a"])) == "IdMap(1 ids: 'a')"


@pytest.mark.parametrize(
    ("tokens", "ids"),
    [
        (["12", "0", "-3"], [12, 0, -3]),
        (["12", "x"], ["12", "x"]),
        (["7", "007"], ["7", "007"]),  # read as ints, two ids would become one
        (["+7"], ["+7"]),
        (["-0"], ["-0"]),
        (["1.0"], ["1.0"]),
        (["1_000"], ["1_000"]),
        (["٣"], ["٣"]),  # a digit, but not one that an int prints as
        (["9" * 19], [int("9" * 19)]),
        (["9" * 20], ["9" * 20]),
    ],
)
def test_text_ids_are_ints_only_if_nothing_is_lost(tokens, ids):
    assert ids_from_text(tokens) == ids


def test_a_typed_id_gets_the_type_of_the_ids():
    assert IdMap([7, 12]).parse("12") == 12
    assert IdMap([7, 12]).parse("-3") == -3
    assert IdMap(["7", "b"]).parse("7") == "7"
    for text in ("abc", "12,99", "1.0", "007", ""):
        with pytest.raises(RequestError, match="expected a whole number such as 7"):
            IdMap([7, 12]).parse(text)
