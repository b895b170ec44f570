"""Item names: what is read and what is refused."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from recgpt.data.names import read_item_names
from recgpt.errors import DataError

SHARED_DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def read(tmp_path, text, name="items.tsv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return read_item_names(path)


def test_first_column_is_the_id_and_last_the_name(tmp_path):
    assert read(tmp_path, "item\tasin\tname\n2\tB1\tRed nail polish\n10\tB2\tSoap\n") == {
        2: "Red nail polish",
        10: "Soap",
    }
    assert read(tmp_path, "item\tname\nx1\tSoap\n7\tComb\n") == {"x1": "Soap", "7": "Comb"}


def test_compressed_names_read_alike(tmp_path):
    path = tmp_path / "items.tsv.xz"
    path.write_bytes(lzma.compress("item\tname\n1\tCrème | Gesicht\n".encode()))
    assert read_item_names(path) == {1: "Crème | Gesicht"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("item name\n1 Soap\n", "line 1: one column"),
        ("item\tname\n1\tSoap\n2\n", "line 3: 1 columns; expected 2"),
        ("item\tname\n1\tSoap\tRed\n", "line 2: 3 columns; expected 2"),
        ("item\tname\n1\tSoap\n\n2\tComb\n", "line 3: 1 columns"),
        ("item\tname\n1\tSoap\n1\tComb\n", "line 3: item '1' has a line already"),
        ("item\tname\n\tSoap\n", "line 2: no id"),
        ("item\tname\n1\t \n2\tSoap\n", "line 2: no name"),
    ],
)
def test_bad_lines_are_refused_with_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, text)
    assert "items.tsv" in str(caught.value)


def test_the_real_names_belong_to_the_real_items():
    path = SHARED_DATA / "beauty_items.tsv.xz"
    if not path.exists():
        pytest.skip("the real data, ../shared/data, is not here")
    names = read_item_names(path)
    assert set(names) == set(range(1, 12102))
    assert names[1] == "OPI | Makeup | Nails | Nail Polish"
