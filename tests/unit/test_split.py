"""What is held out: hand-written splits."""

from __future__ import annotations

import numpy as np
import pytest

from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.data.split import leave_last_out, leave_one_out, without_later_targets
from recgpt.errors import ConfigError


def interactions_of(*sequences):
    return Interactions(
        user_ids=IdMap(range(len(sequences))),
        item_ids=IdMap([1, 2, 3, 4, 5]),
        sequences=tuple(np.array(rows, dtype=np.int64) for rows in sequences),
    )


@pytest.fixture
def split():
    return leave_one_out(interactions_of([5, 1, 2, 3], [4], [1, 2], [2, 1, 2]))


@pytest.fixture
def long():
    """A user with items to spare, one with just enough for three targets, one with an item too few."""
    return interactions_of([5, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4])


def lists(arrays):
    return [rows.tolist() for rows in arrays]


def test_the_last_item_tests_and_the_one_before_validates(split):
    assert lists(split.train) == [[5, 1], [4], [1, 2], [2]]
    assert split.validation.tolist() == [2, 0, 0, 1]
    assert split.test.tolist() == [3, 0, 0, 2]


def test_validation_knows_the_training_items(split):
    assert lists(split.history("validation")) == [[5, 1], [4], [1, 2], [2]]


def test_test_knows_the_validation_target_too(split):
    assert lists(split.history("test")) == [[5, 1, 2], [4], [1, 2], [2, 1]]


def test_everything_is_int64(split):
    assert {split.validation.dtype, split.test.dtype} == {np.dtype(np.int64)}
    assert {rows.dtype for stage in ("validation", "test") for rows in split.history(stage)} == {np.dtype(np.int64)}


def test_the_targets_of_a_stage_stand_in_columns(split):
    assert split.targets("validation").tolist() == [[2], [0], [0], [1]]
    assert split.targets("test").tolist() == [[3], [0], [0], [2]]


def test_the_last_three_test_and_the_one_before_them_validates(long):
    split = leave_last_out(long, num_targets=3)
    assert lists(split.train) == [[5, 1], [1], [1, 2, 3, 4]]
    assert split.validation.tolist() == [2, 2, 0]
    assert split.targets("test").tolist() == [[3, 4, 5], [3, 4, 5], [0, 0, 0]]
    assert split.test.tolist() == [3, 3, 0]
    assert lists(split.history("test")) == [[5, 1, 2], [1, 2], [1, 2, 3, 4]]


def test_a_model_of_a_horizon_trains_and_validates_without_it(long):
    given = without_later_targets(long, num_targets=3)
    assert lists(given.sequences) == [[5, 1, 2, 3], [1, 2, 3], [1, 2, 3, 4]]
    trained_on, horizon = leave_one_out(given), leave_last_out(long, num_targets=3)
    for user in (0, 1):
        assert trained_on.train[user].tolist() == horizon.train[user].tolist()
        assert trained_on.validation[user] == horizon.validation[user]
    assert lists(without_later_targets(long, num_targets=1).sequences) == lists(long.sequences)


def test_no_users_make_an_empty_split():
    split = leave_last_out(interactions_of(), num_targets=2)
    assert (split.train, split.validation.shape, split.horizon.shape) == ((), (0,), (0, 2))


@pytest.mark.parametrize("function", [leave_last_out, without_later_targets])
def test_no_targets_are_refused(function, long):
    with pytest.raises(ConfigError, match="num_targets = 0: expected at least 1"):
        function(long, num_targets=0)


def test_another_stage_is_refused(split):
    with pytest.raises(ConfigError, match="expected validation or test"):
        split.history("train")
    with pytest.raises(ConfigError, match="expected validation or test"):
        split.targets("train")
