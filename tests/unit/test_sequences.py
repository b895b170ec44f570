"""Sequence files: what is read, what is written, and what is refused."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.data.sequences import read_sequences, write_sequences
from recgpt.errors import DataError, OutputError

SHARED_DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
# Users, items, actions, longest sequence: Table 1 of the RecGPT paper (arXiv 2404.08675), and counted with awk.
REAL_FILES = {
    "beauty.txt.xz": (22363, 12101, 198502, 204),
    "yelp.txt.xz": (30431, 20033, 316354, 350),
}


def read(tmp_path, content, name="data.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_sequences(path)


def as_dict(interactions):
    """The same in plain ids, which is independent of rows."""
    return {
        user: [interactions.item_ids.id(row) for row in rows]
        for user, rows in zip(interactions.user_ids.ids, interactions.sequences, strict=True)
    }


def test_rows_follow_the_sorted_ids(tmp_path):
    interactions = read(tmp_path, "10 300 5 300\n9 5 20\n")
    assert interactions.user_ids.ids == (9, 10)
    assert interactions.item_ids.ids == (5, 20, 300)
    assert [rows.tolist() for rows in interactions.sequences] == [[1, 2], [3, 1, 3]]
    assert {rows.dtype for rows in interactions.sequences} == {np.dtype(np.int64)}


def test_users_and_items_have_types_of_their_own(tmp_path):
    assert as_dict(read(tmp_path, "b 1 2\na 3 1\n")) == {"a": [3, 1], "b": [1, 2]}
    assert as_dict(read(tmp_path, "2 10 9 x\n1 9\n")) == {1: ["9"], 2: ["10", "9", "x"]}


@pytest.mark.parametrize("content", ["1 2 3\n4 5", "1 2 3\n4 5\n\n", "1\t2  3\r\n4 5\r\n", b"\xef\xbb\xbf1 2 3\n4 5\n"])
def test_line_ends_blanks_and_byte_order_marks_do_not_matter(tmp_path, content):
    assert as_dict(read(tmp_path, content)) == {1: [2, 3], 4: [5]}


@pytest.mark.parametrize(("suffix", "compress"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_compressed_files_read_alike(tmp_path, suffix, compress):
    assert as_dict(read(tmp_path, compress(b"1 2 3\n"), f"data.txt{suffix}")) == {1: [2, 3]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 2\n\n3 4\n", "line 2: blank; expected 'user item item"),
        ("\n1 2\n", "line 1: blank"),
        ("1 2\n3\n4 5\n", "line 2: user '3' has no items"),
        ("1 2\n3 4\n1 5\n", "line 3: user '1' already has line 1"),
        (b"1 2\n3 \xff\n", "line 2: not UTF-8"),
        ("", "empty"),
        ("\n\n", "empty"),
    ],
)
def test_bad_content_is_refused_with_file_and_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "data.txt") in str(caught.value)


@pytest.mark.parametrize(("suffix", "compress"), [(".xz", lzma.compress), (".gz", gzip.compress)])
@pytest.mark.parametrize("cut", [0, 3, 20, -1])
def test_a_truncated_archive_is_refused(tmp_path, suffix, compress, cut):
    lines = b"".join(b"%d %d %d\n" % (user, 7 * user % 101, user * user % 103) for user in range(100))
    with pytest.raises(DataError, match=f"data.txt{suffix}"):
        read(tmp_path, compress(lines)[:cut], f"data.txt{suffix}")


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_text_named_like_an_archive_is_refused(tmp_path, suffix):
    with pytest.raises(DataError, match=f"not a {suffix} archive"):
        read(tmp_path, "1 2 3\n", f"data.txt{suffix}")


def test_a_damaged_archive_is_refused(tmp_path):
    content = bytearray(gzip.compress(b"1 2 3\n" * 50, mtime=0))
    content[15] ^= 0xFF
    with pytest.raises(DataError, match="copy the file again"):
        read(tmp_path, bytes(content), "data.txt.gz")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_sequences(tmp_path / "none.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_sequences(tmp_path)


PLAIN_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\ufeff"), min_size=1).filter(
    lambda text: text.split() == [text]
)
IDS = st.integers(-(10**18), 10**18) | st.integers(0, 20)


def histories(user, item):
    return st.dictionaries(user, st.lists(item, min_size=1, max_size=8), min_size=1, max_size=8)


@given(
    data=histories(IDS, IDS) | histories(PLAIN_TEXT.map("u".__add__), PLAIN_TEXT.map("i".__add__)),
    suffix=st.sampled_from(["", ".xz", ".gz"]),
)
def test_what_is_written_is_read_again(tmp_path_factory, data, suffix):
    items = sorted({item for history in data.values() for item in history})
    users = sorted(data)
    written = Interactions(
        user_ids=IdMap(users),
        item_ids=IdMap(items),
        sequences=tuple(np.array([items.index(item) + 1 for item in data[user]]) for user in users),
    )
    path = tmp_path_factory.mktemp("round_trip") / f"data.txt{suffix}"
    write_sequences(path, written)
    again = read_sequences(path)
    assert as_dict(again) == data
    assert (again.user_ids, again.item_ids) == (written.user_ids, written.item_ids)


def test_the_written_text_is_plain(tmp_path):
    path = tmp_path / "data.txt"
    write_sequences(path, read(tmp_path, "b 2 1\na 3\n", "source.txt"))
    assert path.read_text() == "a 3\nb 2 1\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data.txt", "source.txt"]


@pytest.mark.parametrize("item", ["a b", "", "a\n", "\u2028", "\ufeffa", "\ud800"])
def test_ids_that_would_not_come_back_are_not_written(tmp_path, item):
    path = tmp_path / "data.txt"
    path.write_text("old")
    interactions = Interactions(user_ids=IdMap([1]), item_ids=IdMap([item]), sequences=(np.array([1]),))
    with pytest.raises(DataError, match="cannot stand in a sequence file"):
        write_sequences(path, interactions)
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    interactions = Interactions(user_ids=IdMap([1]), item_ids=IdMap([1]), sequences=(np.array([1]),))
    with pytest.raises(OutputError):
        write_sequences(tmp_path / "file" / "data.txt", interactions)


@pytest.mark.parametrize("name", REAL_FILES)
def test_the_real_files_have_the_published_counts(name):
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip("the real data, ../shared/data, is not here")
    interactions = read_sequences(path)
    longest = max(map(len, interactions.sequences))
    counts = (interactions.num_users, interactions.num_items, interactions.num_interactions, longest)
    assert counts == REAL_FILES[name]
    # Ids of these files are 1..U and 1..V without a gap.
    assert interactions.user_ids.ids == tuple(range(1, counts[0] + 1))
    assert interactions.item_ids.ids == tuple(range(1, counts[1] + 1))
