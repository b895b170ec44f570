"""What is held out of each user's sequence: the last items test, the one before them validates, the rest trains."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from recgpt.data.feedback import Unclicked, with_unclicked
from recgpt.data.interactions import Interactions
from recgpt.errors import ConfigError, DataError
from recgpt.types import Int64Array, PromptedHistory

NOT_EVALUATED = 0

Stage = Literal["validation", "test"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Training sequences and held-out targets; entry u - 1 belongs to user row u.

    Users with too few items to train on one, validate with one and test with the others are trained on with all their
    items and not evaluated.

    Attributes:
        train: U arrays of item rows, int64, oldest first: all but the held-out items.
        validation: (U,) int64, row of the first held-out item; 0 = user not evaluated.
        horizon: (U, T) int64, rows of the T items after it, oldest first; 0 = user not evaluated.
        unclicked: of the interactions; None where they have none.
    """

    train: tuple[Int64Array, ...]
    validation: Int64Array
    horizon: Int64Array
    unclicked: tuple[Unclicked, ...] | None = None

    @property
    def test(self) -> Int64Array:
        """(U,) int64, row of the item after the validation target; 0 = user not evaluated."""
        return self.horizon[:, 0]

    def targets(self, stage: Stage) -> Int64Array:
        """The held-out item rows of a stage, 0 for a user who is not evaluated.

        Returns:
            (U, 1) for ``validation``, (U, T) for ``test``; int64, oldest first.

        Raises:
            ConfigError: another stage.
        """
        if stage == "validation":
            return self.validation[:, None]
        if stage == "test":
            return self.horizon
        raise ConfigError(f"stage = {stage!r}: expected validation or test")

    def history(self, stage: Stage) -> tuple[Int64Array, ...]:
        """What is known of each user when a stage's targets are to be found.

        Args:
            stage: ``validation`` gives the training items; ``test`` gives them and the validation target.

        Returns:
            U arrays of item rows, oldest first; of a user who is not evaluated, all items.

        Raises:
            ConfigError: another stage.
        """
        if stage == "validation":
            return self.train
        if stage == "test":
            pairs = zip(self.train, self.validation, strict=True)
            return tuple(np.append(items, target) if target else items for items, target in pairs)
        raise ConfigError(f"stage = {stage!r}: expected validation or test")

    def history_with_unclicked(self, stage: Stage, max_between: int) -> tuple[PromptedHistory, ...]:
        """``history`` with the items that were shown and not clicked before the stage's target, as prompts.

        Args:
            stage: as in ``history``.
            max_between: K, the most unclicked items between two behaviours; of more, the newest stay.

        Returns:
            U pairs of item rows and segments, oldest first.

        Raises:
            DataError: the data does not tell what was shown and not clicked.
            ConfigError: another stage.
        """
        if self.unclicked is None:
            raise DataError(
                "the data does not tell what was shown and not clicked, which the model's histories need; "
                "expected a raw log with --clicked-column"
            )
        pairs = zip(self.history(stage), self.unclicked, strict=True)
        return tuple(with_unclicked(items, shown, max_between) for items, shown in pairs)


def leave_one_out(interactions: Interactions) -> Split:
    """Holds out each user's last two items: the last tests, the one before it validates."""
    return leave_last_out(interactions, num_targets=1)


def leave_last_out(interactions: Interactions, *, num_targets: int) -> Split:
    """Holds out each user's last items, in the order the sequences have: one to validate, then the targets of the test.

    Args:
        interactions: everything known.
        num_targets: T, how many of the last items test; at least 1.

    Raises:
        ConfigError: no target.
    """
    _check_num_targets(num_targets)
    num_held_out = num_targets + 1
    pairs = [(items, len(items) > num_held_out) for items in interactions.sequences]
    nothing = np.full(num_held_out, NOT_EVALUATED, dtype=np.int64)
    held_out = np.array([items[-num_held_out:] if enough else nothing for items, enough in pairs], dtype=np.int64)
    held_out = held_out.reshape(-1, num_held_out)
    return Split(
        train=tuple(items[:-num_held_out] if enough else items for items, enough in pairs),
        validation=held_out[:, 0],
        horizon=held_out[:, 1:],
        unclicked=interactions.unclicked,
    )


def without_later_targets(interactions: Interactions, *, num_targets: int) -> Interactions:
    """What ``leave_one_out``, and so a training run, must be given for a model whose horizon is ``num_targets`` items.

    Leaves the horizon's items but the first out, of the users who are evaluated there. Then the model trains on and
    validates with exactly what ``leave_last_out`` says of them. Rows and ids stay as they are.

    Raises:
        ConfigError: no target.
    """
    _check_num_targets(num_targets)
    num_later = num_targets - 1
    sequences = tuple(
        items[: len(items) - num_later] if len(items) > num_targets + 1 else items for items in interactions.sequences
    )
    unclicked = interactions.unclicked
    if unclicked is not None:
        unclicked = tuple(shown.before(len(items)) for shown, items in zip(unclicked, sequences, strict=True))
    return dataclasses.replace(interactions, sequences=sequences, unclicked=unclicked)


def _check_num_targets(num_targets: int) -> None:
    if num_targets < 1:
        raise ConfigError(f"num_targets = {num_targets}: expected at least 1")
