"""From sequences of rows to padded batches of tensors. Knows numpy arrays and torch's loaders, no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recgpt.data.feedback import Unclicked, with_unclicked
from recgpt.data.split import NOT_EVALUATED
from recgpt.types import BEHAVIOUR, Int64Array, PromptedHistory

NO_TARGET = 0
NUM_TARGETS = 5
"""F, the next item and those after it."""

_PART_ENDS = (0.5, 0.8, 0.95, 1.0)


class TrainingBatch(NamedTuple):
    """Sequences to learn from, right-padded with 0 to the longest of them.

    Attributes:
        user_rows: (B,) int64.
        item_rows: (B, T) int64.
        segments: (B, T) int64.
        targets: (B, T, F) int64, the F real items that follow; 0 behind the end, and where there is nothing to predict:
            padding, generated prompts.
    """

    user_rows: Tensor
    item_rows: Tensor
    segments: Tensor
    targets: Tensor


class EvaluationBatch(NamedTuple):
    """Histories whose next item is known, right-padded with 0.

    Attributes:
        user_rows: (B,) int64.
        item_rows: (B, T) int64, newest items that fit the window.
        segments: (B, T) int64.
        lengths: (B,) int64, real tokens.
        targets: (B,) int64.
        seen: (B, E) int64, all behaviours of the history, those beyond the window too.
    """

    user_rows: Tensor
    item_rows: Tensor
    segments: Tensor
    lengths: Tensor
    targets: Tensor
    seen: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingExample:
    """One sequence to learn from.

    Attributes:
        user_row: of its user.
        item_rows: (T,) int64.
        segments: (T,) int64.
        targets: (T, F) int64, as in TrainingBatch.
    """

    user_row: int
    item_rows: Int64Array
    segments: Int64Array
    targets: Int64Array


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationExample:
    """One history and the item that came next."""

    user_row: int
    item_rows: Int64Array
    segments: Int64Array
    seen: Int64Array
    target: int


class Examples(Dataset[TrainingExample | EvaluationExample]):
    """Examples by position, as a loader takes them."""

    def __init__(self, examples: Sequence[TrainingExample] | Sequence[EvaluationExample]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, position: int) -> TrainingExample | EvaluationExample:
        return self._examples[position]


def plain_examples(train: Sequence[Int64Array], max_length: int) -> list[TrainingExample]:
    """Next-item prediction on users' own sequences, the newest C targets; users with one item have nothing to give.

    Args:
        train: training items of users 1..U, oldest first.
        max_length: C.
    """
    return [
        TrainingExample(
            user_row=row,
            item_rows=items[:-1][-max_length:],
            segments=np.full(min(len(items) - 1, max_length), BEHAVIOUR),
            targets=_following(items, np.arange(1, len(items)))[-max_length:],
        )
        for row, items in enumerate(train, start=1)
        if len(items) > 1
    ]


def prompted_examples(train: Sequence[Int64Array], prompted: Sequence[PromptedHistory]) -> list[TrainingExample]:
    """Next-item prediction at the real positions of prompt-enhanced sequences.

    Source: eq. 5 of the paper (arXiv 2404.08675).

    Args:
        train: training items of users 1..U, oldest first.
        prompted: for each user, the training items *but the last*, cut to the window and enriched with prompts.
    """
    examples = []
    for row, (items, (item_rows, segments)) in enumerate(zip(train, prompted, strict=True), start=1):
        real = segments == BEHAVIOUR
        if not real.any():
            continue
        targets = np.full((len(item_rows), NUM_TARGETS), NO_TARGET)
        targets[real] = _following(items, np.arange(len(items) - real.sum(), len(items)))
        examples.append(TrainingExample(user_row=row, item_rows=item_rows, segments=segments, targets=targets))
    return examples


def feedback_examples(
    train: Sequence[Int64Array], unclicked: Sequence[Unclicked], *, num_prompts: int, max_length: int
) -> list[TrainingExample]:
    """Next-item prediction on histories with the items that were shown and not clicked.

    Each position predicts the next *clicked* item, those of unclicked items too: a user may come back after any of
    them, and then its position is the one that recall searches for.

    Source: eq. 5 of the paper (arXiv 2404.08675), which predicts at the positions of real items only.

    Args:
        train: training items of users 1..U, oldest first.
        unclicked: of the same users.
        num_prompts: K, the most unclicked items before each clicked one; of more, the newest stay.
        max_length: C.
    """
    examples = []
    for row, (items, shown) in enumerate(zip(train, unclicked, strict=True), start=1):
        item_rows, segments = with_unclicked(items[:-1], shown, num_prompts)
        if not len(item_rows):
            continue
        targets = _following(items, np.cumsum(segments == BEHAVIOUR))
        newest = slice(-max_length, None)
        examples.append(
            TrainingExample(
                user_row=row, item_rows=item_rows[newest], segments=segments[newest], targets=targets[newest]
            )
        )
    return examples


def evaluation_examples(
    histories: Sequence[Int64Array],
    targets: Int64Array,
    max_length: int,
    *,
    prompted: Sequence[PromptedHistory] | None = None,
) -> list[EvaluationExample]:
    """Histories with their targets, longest first so that batches have little padding.

    Args:
        histories: of users 1..U, oldest first.
        targets: (U,) rows; users with 0 are left out.
        max_length: C.
        prompted: the same histories with the prompts they are served with; None for plain ones.
    """
    tokens = prompted or [(items, np.full_like(items, BEHAVIOUR)) for items in histories]
    evaluated = np.flatnonzero(targets != NOT_EVALUATED)
    order = sorted(evaluated.tolist(), key=lambda user: -len(tokens[user][0]))
    return [
        EvaluationExample(
            user_row=user + 1,
            item_rows=tokens[user][0][-max_length:],
            segments=tokens[user][1][-max_length:],
            seen=histories[user],
            target=int(targets[user]),
        )
        for user in order
    ]


def collate_training(examples: Sequence[TrainingExample]) -> list[TrainingBatch]:
    """Pads examples into a batch of a few parts, from the short sequences to the long ones.

    Lengths are skewed: padded to the longest, most of a batch would be padding (on Amazon Beauty 88 % of it, in these
    parts 36 %). The parts are one batch to the loss.
    """
    by_length = sorted(examples, key=lambda example: len(example.item_rows))
    cuts = [0, *(int(len(by_length) * share) for share in _PART_ENDS)]
    return [_collate_part(by_length[start:end]) for start, end in pairwise(cuts) if end > start]


def _following(items: Int64Array, places: Int64Array) -> Int64Array:
    """What stands at places (T,) of items (N,) and after them, (T, F), 0 behind the end."""
    ahead: Int64Array = np.pad(items, (0, NUM_TARGETS - 1), constant_values=NO_TARGET)
    return ahead[places[:, None] + np.arange(NUM_TARGETS)]


def _collate_part(examples: Sequence[TrainingExample]) -> TrainingBatch:
    return TrainingBatch(
        user_rows=torch.tensor([example.user_row for example in examples]),
        item_rows=_pad([example.item_rows for example in examples]),
        segments=_pad([example.segments for example in examples]),
        targets=_pad([example.targets for example in examples]),
    )


def collate_evaluation(examples: Sequence[EvaluationExample]) -> EvaluationBatch:
    """Pads histories into a batch."""
    return EvaluationBatch(
        user_rows=torch.tensor([example.user_row for example in examples]),
        item_rows=_pad([example.item_rows for example in examples]),
        segments=_pad([example.segments for example in examples]),
        lengths=torch.tensor([len(example.item_rows) for example in examples]),
        targets=torch.tensor([example.target for example in examples]),
        seen=_pad([example.seen for example in examples]),
    )


def _pad(arrays: Sequence[Int64Array]) -> Tensor:
    padded = np.zeros((len(arrays), max(map(len, arrays)), *arrays[0].shape[1:]), dtype=np.int64)
    for row, array in enumerate(arrays):
        padded[row, : len(array)] = array
    return torch.from_numpy(padded)
