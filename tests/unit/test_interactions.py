"""Interactions: invariants and counts."""

from __future__ import annotations

import numpy as np
import pytest

from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.errors import DataError


def make(sequences, num_items=4):
    return Interactions(
        user_ids=IdMap([f"u{number}" for number in range(len(sequences))]),
        item_ids=IdMap([10 * number for number in range(num_items)]),
        sequences=tuple(np.array(rows, dtype=np.int64) for rows in sequences),
    )


def test_counts():
    interactions = make([[1, 2], [2, 2, 3]])
    assert (interactions.num_users, interactions.num_items, interactions.num_interactions) == (2, 4, 5)


def test_popularity_counts_the_sequences_it_is_given():
    interactions = make([[1, 2], [2, 2, 3]])
    popularity = interactions.popularity(interactions.sequences)
    assert popularity.tolist() == [0, 1, 3, 1, 0]
    assert popularity.dtype == np.int64
    assert interactions.popularity([np.array([4])]).tolist() == [0, 0, 0, 0, 1]
    assert interactions.popularity([]).tolist() == [0, 0, 0, 0, 0]


def test_from_flat_cuts_by_length():
    made = Interactions.from_flat(IdMap([1, 2]), IdMap([5, 6]), np.array([1, 2, 2]), np.array([1, 2]))
    assert [rows.tolist() for rows in made.sequences] == [[1], [2, 2]]
    assert Interactions.from_flat(IdMap([]), IdMap([]), np.array([]), np.array([])).num_interactions == 0


@pytest.mark.parametrize("sequences", [[[0, 1]], [[1, 5]], [[-1]], [[1], []]])
def test_rows_out_of_range_and_empty_sequences_are_refused(sequences):
    with pytest.raises(DataError):
        make(sequences)


def test_each_user_needs_a_sequence():
    with pytest.raises(DataError, match="1 sequences for 2 users"):
        Interactions(user_ids=IdMap([1, 2]), item_ids=IdMap([1]), sequences=(np.array([1]),))
