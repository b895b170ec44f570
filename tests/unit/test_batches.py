from __future__ import annotations

import numpy as np
import torch

from recgpt.training.batches import (
    TrainingBatch,
    collate_evaluation,
    collate_training,
    evaluation_examples,
    plain_examples,
    prompted_examples,
)
from recgpt.training.stage_data import StageData


def arrays(*sequences):
    return [np.array(sequence, dtype=np.int64) for sequence in sequences]


def merged(parts: list[TrainingBatch]):
    """The sequences of all parts as {user: (items, segments, next targets)} without their padding."""
    found = {}
    for part in parts:
        part = part._replace(targets=part.targets[:, :, 0])
        for user, items, segments, targets in zip(*(tensor.tolist() for tensor in part), strict=True):
            length = len(items) - items[::-1].index(next(item for item in reversed(items) if item))
            found[user] = (items[:length], segments[:length], targets[:length])
            assert not any(items[length:]) and not any(segments[length:]) and not any(targets[length:])
    return found


def test_each_position_predicts_the_next_item_of_the_newest_window():
    examples = plain_examples(arrays([1, 2, 3, 4, 5], [6], [7, 8]), max_length=3)
    assert merged(collate_training(examples)) == {
        1: ([2, 3, 4], [0, 0, 0], [3, 4, 5]),
        3: ([7], [0], [8]),
    }


def test_only_real_positions_of_a_prompted_sequence_predict_and_they_predict_the_next_real_item():
    train = arrays([9, 1, 2, 3, 4], [5], [7, 8])
    # User 1's inputs were cut to 1, 2, 3; user 2 has no input.
    prompted = list(
        zip(arrays([1, 50, 51, 2, 52, 53, 3], [], [7]), arrays([0, 1, 1, 0, 1, 1, 0], [], [0]), strict=True)
    )
    assert merged(collate_training(prompted_examples(train, prompted))) == {
        1: ([1, 50, 51, 2, 52, 53, 3], [0, 1, 1, 0, 1, 1, 0], [2, 0, 0, 3, 0, 0, 4]),
        3: ([7], [0], [8]),
    }


def test_positions_know_the_items_after_the_next_one_too():
    train = arrays([9, 1, 2, 3, 4, 5, 6, 7])
    [plain] = plain_examples(train, max_length=4)
    assert plain.targets.tolist() == [[4, 5, 6, 7, 0], [5, 6, 7, 0, 0], [6, 7, 0, 0, 0], [7, 0, 0, 0, 0]]
    [prompted] = prompted_examples(train, [tuple(arrays([4, 50, 5, 51, 6], [0, 1, 0, 1, 0]))])
    nothing = [0] * 5
    assert prompted.targets.tolist() == [[5, 6, 7, 0, 0], nothing, [6, 7, 0, 0, 0], nothing, [7, 0, 0, 0, 0]]


def test_each_part_of_a_batch_is_as_wide_as_its_longest_sequence():
    # Half, four fifths and 95 % of five sequences: after the second, the fourth, the fourth.
    train = [np.arange(1, length + 2) for length in (30, 2, 1, 3, 2)]
    parts = collate_training(plain_examples(train, 50))
    assert [part.item_rows.shape for part in parts] == [(2, 2), (2, 3), (1, 30)]


def test_a_batch_of_one_has_one_part():
    [part] = collate_training(plain_examples(arrays([1, 2]), 5))
    assert part.user_rows.tolist() == [1]


def test_evaluation_keeps_the_newest_window_and_remembers_all_that_was_seen():
    examples = evaluation_examples(arrays([1, 2], [3], [4, 5, 6, 7]), np.array([8, 0, 9]), max_length=3)
    batch = collate_evaluation(examples)
    assert batch.user_rows.tolist() == [3, 1]
    assert batch.item_rows.tolist() == [[5, 6, 7], [1, 2, 0]]
    assert batch.lengths.tolist() == [3, 2]
    assert batch.targets.tolist() == [9, 8]
    assert batch.seen.tolist() == [[4, 5, 6, 7], [1, 2, 0, 0]]
    assert not batch.segments.any()
    assert all(tensor.dtype == torch.int64 for tensor in batch)


def order_of_epoch(seed, epoch):
    examples = plain_examples([np.array([user, user + 1]) for user in range(1, 41)], 5)
    loader = StageData(examples, [], batch_size=7, seed=seed).train_dataloader()
    loader.sampler.set_epoch(epoch)
    return [user for parts in loader for part in parts for user in part.user_rows.tolist()]


def test_every_user_once_an_epoch_in_an_order_of_seed_and_epoch():
    first = order_of_epoch(seed=0, epoch=0)
    assert sorted(first) == list(range(1, 41))
    assert first == order_of_epoch(seed=0, epoch=0)
    assert first != order_of_epoch(seed=0, epoch=1)
    assert first != order_of_epoch(seed=1, epoch=0)
