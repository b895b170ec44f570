"""What a model went through; travels with checkpoints and bundles. Knows no model and no library."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PRETRAINED = "pretrained"
PROMPT_TUNED = "prompt_tuned"
STAGES = (PRETRAINED, PROMPT_TUNED)
GENERATED = "generated"
FEEDBACK = "feedback"
PROMPTS = (GENERATED, FEEDBACK)


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """How a model was trained.

    Attributes:
        stage: ``pretrained`` (fit for one interest) or ``prompt_tuned`` (fit for several).
        num_prompts: K, prompts before each real item while tuning; 0 for a model that was only pre-trained.
        num_epochs: epochs over the training data that went into the weights, of all stages.
        seed: of every random choice; of the first one in an ensemble.
        data: name of the training data, for people.
        data_sha256: of the training data (``Interactions.digest``), empty if it was not recorded.
        recipe: every setting of the training (``TrainingConfig.to_dict``), empty if it was not recorded.
        prompts: what they were, ``generated`` items or the unclicked ones of ``feedback``.
        num_members: models that were put together, see ``recgpt.model.ensemble``.
        members: of an ensemble, each member's training state as plain values; empty in others.
        validation: metric name -> value on the validation targets, such as ``{"hr@10": 0.09, "ndcg@10": 0.05}``.

    Raises:
        ValueError: a value is not of these.
    """

    stage: str
    num_prompts: int
    num_epochs: int
    seed: int
    data: str
    data_sha256: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    prompts: str = GENERATED
    num_members: int = 1
    members: Sequence[Mapping[str, Any]] = ()
    validation: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage {self.stage!r}: expected one of {', '.join(STAGES)}")
        if self.prompts not in PROMPTS:
            raise ValueError(f"prompts {self.prompts!r}: expected one of {', '.join(PROMPTS)}")
        if min(self.num_prompts, self.num_epochs, self.seed) < 0:
            raise ValueError(
                f"num_prompts {self.num_prompts}, num_epochs {self.num_epochs}, seed {self.seed}: expected at least 0"
            )

    @property
    def is_prompt_tuned(self) -> bool:
        """Whether the model has learnt to go on after items that were offered and not taken."""
        return self.stage == PROMPT_TUNED

    @property
    def max_unclicked(self) -> int:
        """The most unclicked items that the model has learnt to find between two behaviours of a history."""
        return self.num_prompts if self.prompts == FEEDBACK else 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the inverse of ``from_dict``."""
        plain = {"recipe": dict(self.recipe), "members": list(self.members), "validation": dict(self.validation)}
        return {**dataclasses.asdict(self), **plain}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> TrainingState:
        """The inverse of ``to_dict``; TypeError or ValueError if the values are not a training state's."""
        state = TrainingState(**values)
        return dataclasses.replace(state, members=tuple(state.members))
