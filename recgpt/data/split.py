"""Leave-one-out: each user's last item tests, the one before it validates, the rest trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from recgpt.data.feedback import Unclicked, with_unclicked
from recgpt.data.interactions import Interactions
from recgpt.errors import ConfigError, DataError
from recgpt.types import Int64Array, PromptedHistory

NOT_EVALUATED = 0
_MIN_EVALUATED = 3

Stage = Literal["validation", "test"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Training sequences and held-out targets; entry u - 1 belongs to user row u.

    Users with fewer than three items are trained on with all their items and not evaluated.

    Attributes:
        train: U arrays of item rows, int64, oldest first: all but the last two items.
        validation: (U,) int64, row of the item before the last; 0 = user not evaluated.
        test: (U,) int64, row of the last item; 0 = user not evaluated.
        unclicked: of the interactions; None where they have none.
    """

    train: tuple[Int64Array, ...]
    validation: Int64Array
    test: Int64Array
    unclicked: tuple[Unclicked, ...] | None = None

    def targets(self, stage: Stage) -> Int64Array:
        """The held-out item rows (U,) of a stage, 0 for a user who is not evaluated; ConfigError for another stage."""
        if stage == "validation":
            return self.validation
        if stage == "test":
            return self.test
        raise ConfigError(f"stage = {stage!r}: expected validation or test")

    def history(self, stage: Stage) -> tuple[Int64Array, ...]:
        """What is known of each user when a stage's target is to be found.

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
    """Holds out each user's last two items, in the order the sequences have."""
    sequences = interactions.sequences
    evaluated = [len(items) >= _MIN_EVALUATED for items in sequences]
    pairs = list(zip(sequences, evaluated, strict=True))
    return Split(
        train=tuple(items[:-2] if held_out else items for items, held_out in pairs),
        validation=np.array([items[-2] if held_out else NOT_EVALUATED for items, held_out in pairs], dtype=np.int64),
        test=np.array([items[-1] if held_out else NOT_EVALUATED for items, held_out in pairs], dtype=np.int64),
        unclicked=interactions.unclicked,
    )
