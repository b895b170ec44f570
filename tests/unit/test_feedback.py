"""Feedback: items that were shown and not clicked, from the log to the histories that are learnt from and sent."""

from __future__ import annotations

import dataclasses
import lzma
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recgpt.data.feedback import Unclicked, with_unclicked
from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.data.logs import read_logs
from recgpt.data.split import leave_one_out
from recgpt.errors import DataError
from recgpt.training.batches import collate_evaluation, evaluation_examples, feedback_examples

SHARED_DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
COLUMNS = {"user": "who", "item": "what", "timestamp": "when", "clicked": "yes"}

# User 1 in time order: 20 passed over, 10 clicked, 30 and 20 passed over, 20 clicked, 40 passed over, 30 clicked,
# 20 passed over; at time 5 the click counts first, as the row that comes later in the file.
LOG = """\
who,what,when,yes
1,30,9,1
1,20,1,0
1,10,2,1
1,30,3,0
1,20,4,0
1,40,5,0
1,20,5,1
1,20,10,0
2,40,1,1
2,10,2,0
"""
CLICKS = {1: [10, 20, 30], 2: [40]}
HISTORIES = {
    1: [(20, 1), (10, 0), (30, 1), (20, 1), (20, 0), (40, 1), (30, 0), (20, 1)],
    2: [(40, 0), (10, 1)],
}


def read(tmp_path, text=LOG, *, min_count=1, **columns):
    path = tmp_path / "log.csv"
    path.write_text(text)
    return read_logs(path, **(COLUMNS | columns), min_count=min_count)


def clicks_of(interactions):
    item_id = interactions.item_ids.id
    return {
        user: [item_id(row) for row in rows]
        for user, rows in zip(interactions.user_ids.ids, interactions.sequences, strict=True)
    }


def histories_of(interactions):
    """Everything in time order, in ids: {user: [(item, segment)]}."""
    found = {}
    for user, items, shown in zip(
        interactions.user_ids.ids, interactions.sequences, interactions.unclicked, strict=True
    ):
        pairs = [(interactions.item_ids.id(row), 0) for row in items]
        for row, place in reversed(list(zip(shown.item_rows.tolist(), shown.num_before.tolist(), strict=True))):
            pairs.insert(place, (interactions.item_ids.id(row), 1))
        found[user] = pairs
    return found


def test_clicked_rows_are_behaviours_and_the_others_stand_between_them_in_time_order(tmp_path):
    interactions = read(tmp_path)
    assert clicks_of(interactions) == CLICKS
    assert histories_of(interactions) == HISTORIES
    assert interactions.num_interactions == 4


def test_without_the_column_every_row_is_an_interaction(tmp_path):
    interactions = read(tmp_path, clicked=None)
    assert interactions.num_interactions == 10
    assert interactions.unclicked is None


def test_a_row_that_repeats_another_is_one_event_and_one_of_another_time_is_another(tmp_path):
    twice = read(tmp_path, LOG + "1,20,4,0\n1,30,9,1\n")
    assert (clicks_of(twice), histories_of(twice)) == (CLICKS, HISTORIES)
    later = read(tmp_path, LOG + "1,30,11,1\n1,20,12,0\n")
    assert clicks_of(later)[1] == [*CLICKS[1], 30]
    assert histories_of(later)[1] == [*HISTORIES[1], (30, 0), (20, 1)]


def test_the_filter_counts_clicks_and_takes_the_unclicked_items_it_left_nobody_for(tmp_path):
    clicks = "".join(f"{user},{item},{time},1\n" for user in (1, 2) for item, time in ((10, 1), (20, 3)))
    # Item 30 is shown often and clicked once, user 3 clicks once.
    shown = "1,30,2,0\n1,20,2,0\n2,30,4,1\n2,30,2,0\n3,10,1,1\n3,20,2,0\n3,30,3,0\n"
    interactions = read(tmp_path, f"who,what,when,yes\n{clicks}{shown}", min_count=2)
    assert interactions.item_ids.ids == (10, 20)
    assert histories_of(interactions) == {1: [(10, 0), (20, 1), (20, 0)], 2: [(10, 0), (20, 0)]}


def test_a_user_without_unclicked_items_has_an_empty_entry(tmp_path):
    interactions = read(tmp_path, "who,what,when,yes\n1,10,1,1\n2,20,1,1\n2,10,2,0\n")
    assert [shown.item_rows.tolist() for shown in interactions.unclicked] == [[], [1]]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, False, True]),
        pa.array([1, 0, 1], pa.int8()),
        pa.array(["1", "0", "1"]),
        pa.array(["True", "FALSE", "true"]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type),
)
def test_yes_and_no_come_in_many_types(tmp_path, column):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"who": [1, 1, 1], "what": [10, 20, 20], "when": [1, 2, 3], "yes": column}), path)
    assert histories_of(read_logs(path, **COLUMNS, min_count=1)) == {1: [(10, 0), (20, 1), (20, 0)]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2", "row 4, column 'yes': '2' is neither yes nor no; expected 0 or 1, false or true"),
        ("", "row 4, column 'yes': no value"),
        ("0.5", "row 4, column 'yes': '0.5' is neither"),
    ],
)
def test_what_is_neither_yes_nor_no_is_refused_with_its_row(tmp_path, value, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, f"who,what,when,yes\n1,1,1,1\n1,2,2,0\n1,3,3,{value}\n")


def test_numbers_with_a_fraction_are_no_answer(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"who": [1], "what": [1], "when": [1], "yes": [1.0]}), path)
    with pytest.raises(DataError, match="column 'yes': holds values of type double"):
        read_logs(path, **COLUMNS)


def test_a_log_of_no_clicks_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="of 0 interactions"):
        read(tmp_path, "who,what,when,yes\n1,1,1,0\n")


def test_the_digest_knows_unclicked_items_and_where_they_stand(tmp_path):
    interactions = read(tmp_path)
    plain = dataclasses.replace(interactions, unclicked=None)
    clicks_only = "".join(line for line in LOG.splitlines(keepends=True) if line.endswith(("yes\n", "1\n")))
    same_ids = read(tmp_path, clicks_only, clicked=None)
    assert plain.digest() == same_ids.digest()
    first = interactions.unclicked[0]
    moved = dataclasses.replace(first, num_before=first.num_before.clip(max=2))
    other = dataclasses.replace(first, item_rows=first.item_rows[::-1])
    variants = [plain, *(dataclasses.replace(interactions, unclicked=(shown, interactions.unclicked[1]))
                         for shown in (first, moved, other))]  # fmt: skip
    assert variants[1].digest() == interactions.digest()
    assert len({variant.digest() for variant in variants}) == 4


def test_the_real_log_has_the_clicks_that_plain_python_counts():
    path = SHARED_DATA / "kuairand_feedback.tsv.xz"
    if not path.exists():
        pytest.skip("the real data, ../shared/data, is not here")
    with lzma.open(path, "rt") as file:
        header, *rows = (line.rstrip("\n").split("\t") for line in file)
    names = {"user": "user_id", "item": "video_id", "timestamp": "time_ms", "clicked": "is_click"}
    events = {tuple(row[header.index(name)] for name in names.values()) for row in rows}
    clicked = {item for _, item, _, is_click in events if is_click == "1"}
    interactions = read_logs(path, **names, min_count=1)
    assert interactions.num_interactions == sum(is_click == "1" for *_, is_click in events)
    assert interactions.num_items == len(clicked)
    num_unclicked = sum(is_click == "0" and item in clicked for _, item, _, is_click in events)
    assert sum(len(part.item_rows) for part in interactions.unclicked) == num_unclicked


def shown(rows, places):
    return Unclicked(item_rows=np.array(rows, dtype=np.int64), num_before=np.array(places, dtype=np.int64))


@pytest.mark.parametrize(
    ("unclicked", "message"),
    [
        ([], "unclicked items of 0 users; expected 1"),
        ([shown([3], [0])], "item rows"),
        ([shown([1], [3])], "after 3 behaviours of a user who has 2"),
    ],
)
def test_unclicked_items_that_do_not_fit_the_sequences_are_refused(unclicked, message):
    with pytest.raises(DataError, match=message):
        Interactions(
            user_ids=IdMap([1]), item_ids=IdMap([5, 6]), sequences=(np.array([1, 2]),), unclicked=tuple(unclicked)
        )


@pytest.mark.parametrize(("rows", "places"), [([1], [0, 1]), ([1, 2], [2, 1]), ([1], [-1])])
def test_unclicked_items_out_of_order_are_refused(rows, places):
    with pytest.raises(DataError, match="expected"):
        shown(rows, places)


@given(
    events=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 1)), max_size=30),
    num_items=st.integers(0, 12),
    max_between=st.integers(0, 4),
)
def test_a_history_is_the_beginning_of_the_log_with_the_newest_of_each_gap(events, num_items, max_between):
    items = np.array([row for row, segment in events if segment == 0], dtype=np.int64)
    places = np.cumsum([segment == 0 for _, segment in events], dtype=np.int64)
    unclicked = shown(
        [row for row, segment in events if segment],
        [place for place, (_, segment) in zip(places, events, strict=True) if segment],
    )
    expected, gap, num_seen = [], [], 0
    for row, segment in events:
        if segment:
            gap.append((row, 1))
            continue
        if num_seen == min(num_items, len(items)):
            break
        expected += [*gap[max(0, len(gap) - max_between) :], (row, 0)]
        gap, num_seen = [], num_seen + 1
    expected += gap[max(0, len(gap) - max_between) :]
    rows, segments = with_unclicked(items[:num_items], unclicked, max_between)
    assert list(zip(rows.tolist(), segments.tolist(), strict=True)) == expected
    assert (rows.dtype, segments.dtype) == (np.int64, np.int64)


# Rows 1..6 clicked, row 10 + n shown after n clicks, and a second item in two of the gaps.
SPLIT = leave_one_out(
    Interactions(
        user_ids=IdMap(["a", "b"]),
        item_ids=IdMap(range(30)),
        sequences=(np.arange(1, 7), np.array([7])),
        unclicked=(shown([10, 12, 22, 14, 24, 15, 16], [0, 2, 2, 4, 4, 5, 6]), shown([8], [1])),
    )
)


def test_a_stage_knows_what_was_shown_before_its_target_and_nothing_after():
    validation, test = (SPLIT.history_with_unclicked(stage, 2) for stage in ("validation", "test"))
    assert [rows.tolist() for rows, _ in validation] == [[10, 1, 2, 12, 22, 3, 4, 14, 24], [7, 8]]
    assert [segments.tolist() for _, segments in validation] == [[1, 0, 0, 1, 1, 0, 0, 1, 1], [0, 1]]
    assert test[0][0].tolist() == [10, 1, 2, 12, 22, 3, 4, 14, 24, 5, 15]
    assert SPLIT.history_with_unclicked("test", 1)[0][0].tolist() == [10, 1, 2, 22, 3, 4, 24, 5, 15]


def test_a_split_of_plain_data_has_no_such_histories():
    plain = dataclasses.replace(SPLIT, unclicked=None)
    with pytest.raises(DataError, match="--clicked-column"):
        plain.history_with_unclicked("test", 1)


def test_every_position_of_a_feedback_history_predicts_the_next_click():
    [example] = feedback_examples(SPLIT.train, SPLIT.unclicked, num_prompts=2, max_length=6)
    # Of 10 1 2 12 22 3 -> 4, whose last training target is 4; user b has one click and nothing to predict.
    assert example.user_row == 1
    assert example.item_rows.tolist() == [10, 1, 2, 12, 22, 3]
    assert example.segments.tolist() == [1, 0, 0, 1, 1, 0]
    assert example.targets[:, 0].tolist() == [1, 2, 3, 3, 3, 4]
    assert example.targets[1].tolist() == [2, 3, 4, 0, 0]


def test_a_long_feedback_history_keeps_its_newest_tokens():
    [example] = feedback_examples(SPLIT.train, SPLIT.unclicked, num_prompts=2, max_length=3)
    assert (example.item_rows.tolist(), example.targets[:, 0].tolist()) == ([12, 22, 3], [3, 3, 4])


def test_evaluation_sends_the_prompts_and_leaves_out_behaviours_only():
    histories = SPLIT.history("test")
    examples = evaluation_examples(histories, SPLIT.test, 5, prompted=SPLIT.history_with_unclicked("test", 2))
    batch = collate_evaluation(examples)
    assert batch.item_rows.tolist() == [[4, 14, 24, 5, 15]]
    assert batch.segments.tolist() == [[0, 1, 1, 0, 1]]
    assert batch.seen.tolist() == [[1, 2, 3, 4, 5]]
    assert batch.targets.tolist() == [6]
