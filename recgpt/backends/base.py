"""The contract between recall and whatever runs the graphs: numpy in, numpy out.

Implementations: eager PyTorch (the reference), ONNX Runtime in process, Triton over gRPC. All are held to one contract
test suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from recgpt.errors import RequestError
from recgpt.types import Float32Array, Int64Array

Number = TypeVar("Number", np.int64, np.float32)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Sizes of the exported model, as a backend and its callers need them."""

    num_items: int
    num_users: int
    max_length: int
    hidden_size: int
    num_blocks: int
    num_heads: int

    @property
    def head_size(self) -> int:
        """Dh, width of one attention head."""
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """A batch of token rows, as every graph takes them.

    Attributes:
        user_rows: (B,) int64, 0 = the shared user.
        item_rows: (B, T) int64, right-padded with 0.
        segments: (B, T) int64, 0 or 1.
        lengths: (B,) int64. For a history: its real tokens, 1..T. For ``decode``: the tokens already cached.
        excluded: (B, E) int64 rows that must not be generated, filled up with 0; E at least 1.
    """

    user_rows: Int64Array
    item_rows: Int64Array
    segments: Int64Array
    lengths: Int64Array
    excluded: Int64Array

    def __len__(self) -> int:
        return len(self.user_rows)

    def padded(self, length: int, num_excluded: int) -> Tokens:
        """The same tokens with history and exclusions right-padded to at least these widths."""
        return replace(
            self,
            item_rows=_pad(self.item_rows, length),
            segments=_pad(self.segments, length),
            excluded=_pad(self.excluded, num_excluded),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class StepOutput:
    """One step's answer.

    Attributes:
        interest: (B, D) float32.
        next_rows: (B,) int64, the best item that is not excluded.
        key_values: (B, L, 2, H, P, Dh) float32, the cache so far; real tokens come first in each row.
    """

    interest: Float32Array
    next_rows: Int64Array
    key_values: Float32Array


@dataclass(frozen=True, kw_only=True, eq=False)
class InterestsOutput:
    """All steps' answers.

    Attributes:
        interests: (B, J, D) float32.
        generated_rows: (B, J - 1) int64, the item that was fed back after each step but the last.
    """

    interests: Float32Array
    generated_rows: Int64Array


@dataclass(frozen=True, kw_only=True, eq=False)
class RecallOutput:
    """The answers of a recall graph; behind the quotas' sum everything is 0.

    Attributes:
        rows: (B, K) int64, recalled items, step by step, best first in each; K at least the largest sum of quotas.
        scores: (B, K) float32.
        steps: (B, K) int64, 1-based.
        generated_rows: (B, J - 1) int64, the item that was fed back after each step but the last.
    """

    rows: Int64Array
    scores: Float32Array
    steps: Int64Array
    generated_rows: Int64Array

    def first(self, number: int) -> RecallOutput:
        """The same with K = ``number``."""
        return RecallOutput(
            rows=_pad(self.rows, number)[:, :number],
            scores=_pad(self.scores, number)[:, :number],
            steps=_pad(self.steps, number)[:, :number],
            generated_rows=self.generated_rows,
        )


class Model(Protocol):
    """What recall has to know of an exported model, whoever runs it."""

    @property
    def spec(self) -> ModelSpec:
        """Sizes of the model."""

    @property
    def fused(self) -> frozenset[int]:
        """The numbers of interests for which ``interests`` is available."""


class Backend(Model, Protocol):
    """Runs the graphs of one exported model. Safe to call from several threads."""

    def prefill(self, tokens: Tokens) -> StepOutput:
        """First interest, best next item and cache of a batch of histories."""

    def decode(self, tokens: Tokens, past: Float32Array) -> StepOutput:
        """The same after S more tokens on ``past``, (B, L, 2, H, P, Dh)."""

    def interest(self, tokens: Tokens, past: Float32Array | None = None) -> Float32Array:
        """The interest alone, (B, D): of histories, or after S more tokens on ``past``.

        For a step that nothing follows, so that the cache need not be moved.
        """

    def interests(self, tokens: Tokens, num_interests: int) -> InterestsOutput:
        """All ``num_interests`` steps at once."""

    def close(self) -> None:
        """Lets go of what the backend holds; calling it twice is harmless."""


class RecallBackend(Backend, Protocol):
    """A backend with graphs that recall in one go."""

    @property
    def recalls(self) -> Mapping[int, int]:
        """The numbers of interests for which ``recall`` is available, and how many items it gives at most."""

    @property
    def scans(self) -> Mapping[int, int]:
        """The numbers of interests for which batches are answered by a scan, and how long their lists may be for it."""

    def recall(self, tokens: Tokens, quotas: Int64Array) -> RecallOutput:
        """The merged lists for quotas (B, J); ``excluded`` are neither generated nor recalled."""


def check_tokens(tokens: Tokens, spec: ModelSpec, *, num_steps: int) -> None:
    """Refuses tokens that do not fit the model.

    Args:
        tokens: a batch of histories.
        spec: the model's sizes.
        num_steps: J; the J - 1 generated tokens need positions too.

    Raises:
        RequestError: a shape, length or row is out of range; says which.
    """
    batch, width = tokens.item_rows.shape
    if tokens.segments.shape != (batch, width) or tokens.lengths.shape != (batch,) or len(tokens) != batch:
        raise RequestError(
            f"user_rows {tokens.user_rows.shape}, item_rows {tokens.item_rows.shape}, segments "
            f"{tokens.segments.shape} and lengths {tokens.lengths.shape} do not belong to one "
            "batch; expected (B,), (B, T), (B, T) and (B,)"
        )
    if tokens.excluded.ndim != 2 or len(tokens.excluded) != batch or tokens.excluded.shape[1] < 1:
        raise RequestError(f"excluded has shape {tokens.excluded.shape}; expected ({batch}, E) with E of at least 1")
    if width > spec.max_length:
        raise RequestError(f"item_rows has {width} columns; expected at most {spec.max_length}, the model's window")
    longest = spec.max_length - (num_steps - 1)
    if highest(tokens.lengths - 1) >= min(longest, width):
        raise RequestError(
            f"lengths {tokens.lengths.min()}..{tokens.lengths.max()}: expected 1..{min(longest, width)} for "
            f"{num_steps} interests in a window of {spec.max_length}"
        )
    for name, rows, most in (
        ("item_rows", tokens.item_rows, spec.num_items),
        ("excluded", tokens.excluded, spec.num_items),
        ("user_rows", tokens.user_rows, spec.num_users),
        ("segments", tokens.segments, 1),
    ):
        if highest(rows) > most:
            raise RequestError(f"{name} holds {int(rows.min())}..{int(rows.max())}; expected 0..{most}")


def highest(rows: Int64Array) -> int:
    """The highest of whole numbers, 0 if there are none; negative ones, taken without a sign, are above all others."""
    unsigned = rows.astype(np.int64, copy=False).view(np.uint64)
    # Several times as fast as max() for so few.
    return int(unsigned.item(unsigned.argmax())) if unsigned.size else 0


def _pad(rows: NDArray[Number], width: int) -> NDArray[Number]:
    missing = width - rows.shape[1]
    return rows if missing <= 0 else np.pad(rows, ((0, 0), (0, missing)))
