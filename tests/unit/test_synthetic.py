"""The generator: sizes, seeds, and whether there is something in it to learn."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from recgpt.data.sequences import read_sequences, write_sequences
from recgpt.data.synthetic import generate, random_catalogue
from recgpt.errors import ConfigError


@pytest.fixture(scope="module")
def interactions():
    return generate(num_users=2000, num_items=1000, seed=3)


def test_sizes_are_as_asked(interactions):
    assert interactions.user_ids.ids == tuple(range(1, 2001))
    assert set(interactions.item_ids.ids) <= set(range(1, 1001))
    assert interactions.num_items >= 950  # a few of the rarest items may find nobody
    assert (interactions.popularity(interactions.sequences)[1:] >= 1).all()


def test_lengths_are_like_real_ones(interactions):
    lengths = [len(rows) for rows in interactions.sequences]
    assert (min(lengths), max(lengths)) == (5, 50)
    assert 6 <= np.median(lengths) <= 7
    assert 15 <= np.percentile(lengths, 95) <= 25


def test_no_user_takes_an_item_twice(interactions):
    assert all(len(set(rows.tolist())) == len(rows) for rows in interactions.sequences)


def test_a_user_may_take_the_whole_catalogue():
    small = generate(num_users=300, num_items=20, seed=0, num_interests=3, max_length=20)
    assert max(map(len, small.sequences)) == 20
    assert all(len(set(rows.tolist())) == len(rows) for rows in small.sequences)


def test_equal_seeds_give_equal_interactions():
    first, second, other = (generate(num_users=100, num_items=100, seed=seed) for seed in (1, 1, 2))
    assert [rows.tolist() for rows in first.sequences] == [rows.tolist() for rows in second.sequences]
    assert first.item_ids == second.item_ids
    assert [rows.tolist() for rows in first.sequences] != [rows.tolist() for rows in other.sequences]


def test_it_survives_a_sequence_file(interactions, tmp_path):
    write_sequences(tmp_path / "made.txt.xz", interactions)
    again = read_sequences(tmp_path / "made.txt.xz")
    assert (again.user_ids, again.item_ids) == (interactions.user_ids, interactions.item_ids)
    assert all(map(np.array_equal, again.sequences, interactions.sequences))


def test_popularity_is_skewed_and_says_nothing_about_the_id(interactions):
    popularity = interactions.popularity(interactions.sequences)[1:]
    top_tenth = np.sort(popularity)[-len(popularity) // 10 :]
    assert top_tenth.sum() > 0.25 * popularity.sum()  # evenly spread items would give 0.1
    assert abs(np.corrcoef(interactions.item_ids.ids, popularity)[0, 1]) < 0.1


def test_the_last_item_predicts_the_next_far_better_than_popularity(interactions):
    followers = defaultdict(Counter)
    for rows in interactions.sequences:
        for last, following in zip(rows[:-2].tolist(), rows[1:-1].tolist(), strict=True):
            followers[last][following] += 1
    popularity = interactions.popularity([rows[:-1] for rows in interactions.sequences])
    popular = np.argsort(-popularity, kind="stable").tolist()
    hits = Counter()
    for rows in interactions.sequences:
        *history, target = rows.tolist()
        unseen_popular = [item for item in popular[: 10 + len(history)] if item not in history]
        hits["popular"] += target in unseen_popular[:10]
        hits["last item"] += target in [item for item, _ in followers[history[-1]].most_common(10)]
    assert hits["last item"] > 4 * hits["popular"] > 0


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_users": 0, "num_items": 100},
        {"num_users": 10, "num_items": 49},
        {"num_users": 10, "num_items": 100, "num_interests": 1},
        {"num_users": 10, "num_items": 100, "num_interests": 101},
        {"num_users": 10, "num_items": 100, "max_length": 4},
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(ConfigError, match="expected at least"):
        generate(seed=0, **sizes)


def test_a_random_catalogue_has_a_padding_row_and_clusters():
    vectors = random_catalogue(num_items=500, hidden_size=16, seed=5, num_interests=4)
    assert (vectors.shape, vectors.dtype) == ((501, 16), np.float32)
    assert not vectors[0].any()
    cosines = np.corrcoef(vectors[1:]) - np.eye(500)
    assert cosines.max(axis=1).mean() > 0.6  # every item has close ones ...
    assert abs(cosines.mean()) < 0.3  # ... though most items are not
    assert np.array_equal(vectors, random_catalogue(num_items=500, hidden_size=16, seed=5, num_interests=4))
    assert not np.array_equal(vectors, random_catalogue(num_items=500, hidden_size=16, seed=6, num_interests=4))


def test_an_empty_catalogue_is_refused():
    with pytest.raises(ConfigError, match="num_items = 0"):
        random_catalogue(num_items=0, hidden_size=4, seed=0)
