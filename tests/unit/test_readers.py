"""The one entry point: which reader a file's name chooses."""

from __future__ import annotations

import lzma

import pytest

from recgpt.data.readers import load_interactions
from recgpt.errors import DataError


@pytest.mark.parametrize("name", ["data.txt", "data", "data.v2", "csv"])
def test_other_names_are_sequence_files(tmp_path, name):
    (tmp_path / name).write_text("1 2 3\n")
    assert load_interactions(tmp_path / name).item_ids.ids == (2, 3)
    assert load_interactions(str(tmp_path / name)).item_ids.ids == (2, 3)


@pytest.mark.parametrize("name", ["log.csv", "log.csv.xz"])
def test_csv_names_are_raw_logs(tmp_path, name):
    content = b"u,i,t\n1,20,2\n1,10,1\n"
    (tmp_path / name).write_bytes(lzma.compress(content) if name.endswith("xz") else content)
    interactions = load_interactions(tmp_path / name, user="u", item="i", timestamp="t", min_count=1)
    assert interactions.item_ids.ids == (10, 20)
    assert [rows.tolist() for rows in interactions.sequences] == [[1, 2]]


def test_raw_logs_are_filtered_by_five_unless_told_otherwise(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("u,i,t\n" + "1,10,1\n" * 4)
    with pytest.raises(DataError, match="min_count = 5"):
        load_interactions(path, user="u", item="i", timestamp="t")
    path.write_text("u,i,t\n" + "1,10,1\n" * 5)
    assert load_interactions(path, user="u", item="i", timestamp="t").num_interactions == 5


def test_a_raw_log_without_column_names_lists_what_there_is(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("u,i,t\n1,10,1\n")
    with pytest.raises(DataError, match=r"which column is the item, timestamp was not said.*: u, i, t$"):
        load_interactions(path, user="u")


def test_a_feedback_log_has_a_column_more(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("u,i,t,c\n1,10,1,1\n1,20,2,0\n1,20,3,1\n")
    interactions = load_interactions(path, user="u", item="i", timestamp="t", clicked="c", min_count=1)
    assert [rows.tolist() for rows in interactions.sequences] == [[1, 2]]
    assert interactions.unclicked[0].item_rows.tolist() == [2]


@pytest.mark.parametrize("role", ["user", "clicked"])
def test_column_names_for_a_sequence_file_are_refused(tmp_path, role):
    path = tmp_path / "data.txt"
    path.write_text("1 2 3\n")
    with pytest.raises(DataError, match="this is a sequence file"):
        load_interactions(path, **{role: "u"})
