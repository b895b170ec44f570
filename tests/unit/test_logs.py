"""Raw logs: order, types, the k-core filter, and what is refused."""

from __future__ import annotations

import datetime
import gzip
import lzma
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recgpt.data.logs import k_core, read_logs
from recgpt.errors import ConfigError, DataError

SHARED_DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


def read(path, *, min_count=1):
    return read_logs(path, user="who", item="what", timestamp="when", min_count=min_count)


def read_csv(tmp_path, text, *, name="log.csv", min_count=1):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path, min_count=min_count)


def read_parquet(tmp_path, who, what, when, *, min_count=1):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"what": what, "when": when, "who": who}), path)
    return read(path, min_count=min_count)


def as_dict(interactions):
    return {
        user: [interactions.item_ids.id(row) for row in rows]
        for user, rows in zip(interactions.user_ids.ids, interactions.sequences, strict=True)
    }


def test_items_are_in_time_order_and_equal_times_in_file_order(tmp_path):
    text = "what,extra,when,who\n5,x,30,2\n6,x,20,2\n9,x,20,2\n7,x,20,2\n5,x,-1,1\n8,x,100,2\n"
    assert as_dict(read_csv(tmp_path, text)) == {1: [5], 2: [6, 9, 7, 5, 8]}


def test_rows_follow_the_sorted_ids(tmp_path):
    interactions = read_csv(tmp_path, "who,what,when\n10,300,1\n9,20,1\n10,5,2\n10,300,3\n")
    assert interactions.user_ids.ids == (9, 10)
    assert interactions.item_ids.ids == (5, 20, 300)
    assert [rows.tolist() for rows in interactions.sequences] == [[2], [3, 1, 3]]
    assert {rows.dtype for rows in interactions.sequences} == {np.dtype(np.int64)}


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("log.csv", bytes),
        ("LOG.CSV", bytes),
        ("log.csv.gz", gzip.compress),
        ("log.csv.xz", lzma.compress),
        ("log.tsv", lambda content: content.replace(b",", b"\t")),
        ("log.tsv.xz", lambda content: lzma.compress(content.replace(b",", b"\t"))),
    ],
)
def test_text_logs_of_all_names_read_alike(tmp_path, name, encode):
    content = b"who,what,when\na,x,2\na,y,1\n"
    assert as_dict(read_csv(tmp_path, encode(content), name=name)) == {"a": ["y", "x"]}


def test_text_ids_keep_what_a_guess_would_lose(tmp_path):
    text = 'who,what,when\n1,007,1\n1,7,2\n2,NA,3\n2,null,4\n3,"a, ""b""\nc",5\n'
    assert as_dict(read_csv(tmp_path, text)) == {1: ["007", "7"], 2: ["NA", "null"], 3: ['a, "b"\nc']}


def test_columns_that_are_not_asked_for_may_hold_anything(tmp_path):
    assert as_dict(read_csv(tmp_path, b"who,what,when,\xff\n1,2,3,\xff\n")) == {1: [2]}


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    assert as_dict(read_csv(tmp_path, b"\xef\xbb\xbfwho,what,when\r\n1,2,3\r\n")) == {1: [2]}


@pytest.mark.parametrize(
    "times",
    [
        ["3", "20", "100"],
        ["3.5", "2e1", "100"],
        ["-3", "0", "1700000000000"],
        ["2024-05-01", "2024-05-02", "2024-11-01"],
        ["2024-05-01", "2024-05-01 00:00:01", "2024-05-01T10:00:00.25"],
        ["2024-05-01T10:00:00Z", "2024-05-01T09:30:00-01:00", "2024-05-01T10:31:00Z"],
        ["2024-05-01T10:00:00.000000001", "2024-05-01T10:00:00.000000002", "2024-05-01T10:00:00.000000010"],
        ["0001-01-01", "1600-01-01", "9999-12-31"],
    ],
)
def test_times_in_text_sort_as_times(tmp_path, times):
    early, middle, late = times
    assert as_dict(read_csv(tmp_path, f"who,what,when\n1,3,{late}\n1,1,{early}\n1,2,{middle}\n")) == {1: [1, 2, 3]}


DAY = datetime.date(2024, 5, 1)
NOON = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "when",
    [
        pa.array([2, 1], pa.uint8()),
        pa.array([2**63 + 1, 2**63], pa.uint64()),
        pa.array([0.5, 0.25], pa.float32()),
        pa.array([NOON, NOON - datetime.timedelta(microseconds=1)], pa.timestamp("us", "UTC")),
        pa.array([DAY, DAY - datetime.timedelta(days=1)], pa.date32()),
        pa.array([DAY, DAY - datetime.timedelta(days=1)], pa.date64()),
        pa.array(["2024-05-02", "2024-05-01"]).dictionary_encode(),
        pa.array(["10", "9"], pa.large_string()),
    ],
    ids=lambda when: str(when.type),
)
def test_parquet_times_of_many_types_sort_as_times(tmp_path, when):
    assert as_dict(read_parquet(tmp_path, [1, 1], ["b", "a"], when)) == {1: ["a", "b"]}


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([3, 4], pa.int8()), [3, 4]),
        (pa.array([2**64 - 1, 4], pa.uint64()), [2**64 - 1, 4]),
        (pa.array(["3", "4"]), ["3", "4"]),  # Parquet says what it means: these are strings
        (pa.array(["3", "4"]).dictionary_encode(), ["3", "4"]),
        (pa.chunked_array([["b"], ["a"]], pa.large_string()), ["b", "a"]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_parquet_ids_keep_their_type(tmp_path, ids, expected):
    assert as_dict(read_parquet(tmp_path, ids, ids, [1, 2])) == {value: [value] for value in expected}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,,1\n", "row 2, column 'what': no id"),
        ("1,2,1\n,2,1\n", "row 3, column 'who': no id"),
        ("1,2,1\n1,3,\n", "row 3, column 'when': no time"),
        ("1,2,1\n1,3,soon\n1,2,x\n", "row 3, column 'when': 'soon' is no time; expected ints"),
        ("1,2,soon\n", "row 2, column 'when': 'soon' is no time"),
        ("1,2,2024-01-01\n1,3,5\n", "row 3, column 'when': '5' is no time.* one kind in all rows"),
        ("1,2,5\n1,3,2024-01-01\n", "row 3, column 'when': '2024-01-01' is no time"),
        ("1,2,1.5\n1,3,nan\n", "row 3, column 'when': nan is no time"),
        ("1,2,2024-13-01\n", "row 2, column 'when': '2024-13-01' is no time"),
        ("1,2.0,1\n1,3,2\n", "column 'what': holds floating-point numbers such as 2.0; expected ints or strings"),
        ("1,2,1\n1,nan,2\n", "column 'what': holds floating-point numbers"),
        ("1,2024-05-01,1\n", "column 'what': holds dates or times such as 2024-05-01"),
        ("1,2\n", "row 2: 2 columns; expected 3, as in the header"),
        ("1,2,3\n1,2,3,4\n", "row 3: 4 columns; expected 3"),
        ("", "a header and no rows"),
    ],
)
def test_bad_rows_of_a_text_log_are_refused_with_row_and_column(tmp_path, rows, message):
    with pytest.raises(DataError, match=message) as caught:
        read_csv(tmp_path, f"who,what,when\n{rows}")
    assert str(tmp_path / "log.csv") in str(caught.value)


def test_the_first_bad_time_of_many_rows_is_found(tmp_path):
    times = [str(number) for number in range(1000)]
    times[617], times[800] = "later", "last"
    rows = "".join(f"1,{number},{time}\n" for number, time in enumerate(times))
    with pytest.raises(DataError, match="row 619, column 'when': 'later'"):  # header, and rows count from 1
        read_csv(tmp_path, f"who,what,when\n{rows}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("who,what\n1,2\n", "no column 'when'; its columns are: who, what$"),
        ("who,what,when,who\n1,2,3,4\n", "2 columns 'who'; its columns are: who, what, when, who"),
        (b"who,what,w\xff\n1,2,3\n", "no column 'when'; its columns are: who, what, w\ufffd$"),
        (b"who,what,when\n1,\xff,3\n", "cannot be read as .csv: .*UTF8"),
    ],
)
def test_text_logs_that_are_not_as_named_are_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_csv(tmp_path, content)


@pytest.mark.parametrize(
    ("who", "what", "when", "message"),
    [
        ([1, 2], [1, None], [1, 2], "row 2, column 'what': no id"),
        ([None, "a"], [1, 2], [1, 2], "row 1, column 'who': no id"),
        ([1, 2], ["a", ""], [1, 2], "row 2, column 'what': no id"),
        ([1, 2], [1, 2], [None, 2], "row 1, column 'when': no time"),
        ([1, 2], [1, 2], [1.0, float("inf")], "row 2, column 'when': inf is no time"),
        ([1, 2], [1.0, 2.0], [1, 2], "column 'what': holds values of type double; expected ints or strings"),
        ([DAY, DAY], [1, 2], [1, 2], r"column 'who': holds values of type date32\[day\]"),
        ([True, False], [1, 2], [1, 2], "column 'who': holds values of type bool"),
        ([1, 2], [1, 2], [True, False], "column 'when': holds values of type bool; expected ints"),
        ([1, 2], [1, 2], [datetime.time(1), datetime.time(2)], "column 'when': holds values of type time64"),
        ([1, 2], [1, 2], [[1], [2]], "column 'when': holds values of type list"),
        ([1, 2], [1, 2], ["1", "x"], "row 2, column 'when': 'x' is no time"),
    ],
)
def test_bad_columns_of_a_parquet_log_are_refused(tmp_path, who, what, when, message):
    with pytest.raises(DataError, match=message):
        read_parquet(tmp_path, who, what, when)


def test_parquet_files_that_are_not_as_named_are_refused(tmp_path):
    path = tmp_path / "log.parquet"
    with pytest.raises(DataError, match="cannot be read as a Parquet file"):
        read(path)
    path.write_bytes(b"who,what,when\n1,2,3\n")
    with pytest.raises(DataError, match="cannot be read as a Parquet file"):
        read(path)
    pq.write_table(pa.table({"who": [1], "item": [2]}), path)
    with pytest.raises(DataError, match="no column 'what'; its columns are: who, item"):
        read(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as a Parquet file"):
        read(path)


@pytest.mark.parametrize(("suffix", "compress"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_truncated_archives_are_refused(tmp_path, suffix, compress):
    rows = "".join(f"{number % 7},{number % 11},{number * number}\n" for number in range(5000))
    content = compress(f"who,what,when\n{rows}".encode())
    with pytest.raises(DataError, match=f"truncated, or not a {suffix} archive"):
        read_csv(tmp_path, content[:-20], name=f"log.csv{suffix}")


def test_missing_files_and_other_names_are_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "log.csv")
    with pytest.raises(DataError, match=r"expected a raw log, which ends in .csv, .tsv, .parquet"):
        read(tmp_path / "log.txt")


def test_the_k_core_is_found_by_hand(tmp_path):
    # Item 9 has one row, without it user 3 has one, without that item 8 has one, and so on down to two by two.
    rows = ["1,7,1", "1,6,2", "2,7,3", "2,6,4", "2,8,5", "3,8,6", "3,9,7"]
    text = "who,what,when\n" + "\n".join(rows) + "\n"
    assert as_dict(read_csv(tmp_path, text, min_count=2)) == {1: [7, 6], 2: [7, 6]}
    with pytest.raises(DataError, match=r"of 7 interactions of 3 users with 4 items none is left.*min_count = 3"):
        read_csv(tmp_path, text, min_count=3)


@given(
    pairs=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60),
    min_count=st.integers(1, 5),
)
def test_the_k_core_keeps_the_most_that_it_may(pairs, min_count):
    users, items = np.array(pairs, dtype=np.int64).T
    kept = k_core(users, items, min_count).tolist()
    assert kept == sorted(set(kept))
    assert all(count >= min_count for count in Counter(users[kept].tolist()).values())
    assert all(count >= min_count for count in Counter(items[kept].tolist()).values())
    # Taking away one user or item at a time ends in the same, largest, core.
    rest = list(range(len(pairs)))
    while True:
        rare_users = [user for user, count in Counter(pairs[at][0] for at in rest).items() if count < min_count]
        rare_items = [item for item, count in Counter(pairs[at][1] for at in rest).items() if count < min_count]
        if rare_users:
            rest = [at for at in rest if pairs[at][0] != rare_users[0]]
        elif rare_items:
            rest = [at for at in rest if pairs[at][1] != rare_items[0]]
        else:
            break
    assert kept == rest


def test_min_count_is_at_least_one(tmp_path):
    with pytest.raises(ConfigError, match="min_count = 0"):
        read(tmp_path / "log.csv", min_count=0)


def test_the_real_feedback_log_has_its_published_counts():
    path = SHARED_DATA / "kuairand_feedback.tsv.xz"
    if not path.exists():
        pytest.skip("the real data, ../shared/data, is not here")
    interactions = read_logs(path, user="user_id", item="video_id", timestamp="time_ms", min_count=1)
    lengths = [len(rows) for rows in interactions.sequences]
    assert (interactions.num_users, interactions.num_items, interactions.num_interactions) == (664, 9359, 41828)
    assert (min(lengths), max(lengths)) == (16, 614)
    # The user with the smallest id, sorted with plain Python.
    with lzma.open(path, "rt") as file:
        header, *rows = (line.rstrip("\n").split("\t") for line in file)
    user, item, time = (header.index(name) for name in ("user_id", "video_id", "time_ms"))
    first = min(int(row[user]) for row in rows)
    expected = [int(row[item]) for row in sorted(rows, key=lambda row: int(row[time])) if int(row[user]) == first]
    assert as_dict(interactions)[first] == expected
