"""Leave-one-out: hand-written splits."""

from __future__ import annotations

import numpy as np
import pytest

from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.data.split import leave_one_out
from recgpt.errors import ConfigError


@pytest.fixture
def split():
    sequences = [[5, 1, 2, 3], [4], [1, 2], [2, 1, 2]]
    return leave_one_out(
        Interactions(
            user_ids=IdMap(["a", "b", "c", "d"]),
            item_ids=IdMap([1, 2, 3, 4, 5]),
            sequences=tuple(np.array(rows, dtype=np.int64) for rows in sequences),
        )
    )


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


def test_another_stage_is_refused(split):
    with pytest.raises(ConfigError, match="expected validation or test"):
        split.history("train")
