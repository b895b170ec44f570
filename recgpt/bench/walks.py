"""Autoregressive loops in plain PyTorch, over a KV cache or over the whole sequence again and again.

All rows of a batch are equally long and nothing is excluded: this is about time, and about where a cache pays.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recgpt.model.decoder import SHARED_USER_ROW, Decoder
from recgpt.types import BEHAVIOUR, PROMPT


class CachedWalk:
    """A batch of sequences that grow on the keys and values of all earlier tokens; they begin as (B, T).

    Attributes:
        interest: (B, D) after the last token.
    """

    def __init__(self, decoder: Decoder, history: Tensor) -> None:
        self._decoder = decoder
        self._users = torch.full_like(history[:, 0], SHARED_USER_ROW)
        lengths = torch.full_like(self._users, history.shape[1])
        self.interest, self._past = decoder.prefill(self._users, history, torch.zeros_like(history), lengths)

    def feed(self, rows: Tensor, segments: list[int]) -> None:
        """Appends rows (B, S) with their S segments."""
        start = self._past.shape[4]
        positions = torch.arange(start, start + rows.shape[1]).expand(len(rows), -1)
        cached = torch.ones((len(rows), start), dtype=torch.bool)
        given = torch.tensor(segments).expand(len(rows), -1)
        self.interest, new = self._decoder.extend(self._users, rows, given, positions, self._past, cached)
        self._past = torch.cat([self._past, new], dim=4)


class RecomputedWalk:
    """The same, the whole sequence run again for each feed."""

    def __init__(self, decoder: Decoder, history: Tensor) -> None:
        self._decoder = decoder
        self._users = torch.full_like(history[:, 0], SHARED_USER_ROW)
        self._rows, self._segments = history, [BEHAVIOUR] * history.shape[1]
        self._run()

    def feed(self, rows: Tensor, segments: list[int]) -> None:
        """Appends rows (B, S) with their S segments."""
        self._rows, self._segments = torch.cat([self._rows, rows], dim=1), [*self._segments, *segments]
        self._run()

    def _run(self) -> None:
        lengths = torch.full_like(self._users, self._rows.shape[1])
        given = torch.tensor(self._segments).expand(len(self._rows), -1)
        # As little as one interest needs: in the last block only the last token asks.
        self.interest, _ = self._decoder.prefill(self._users, self._rows, given, lengths)


Walk = CachedWalk | RecomputedWalk
"""Either of the two; what they compute is the same up to rounding."""


class Walked(NamedTuple):
    """Where a batch of B walks came, and by which items: interests (B, J, D) and generated rows (B, G) int64."""

    interests: Tensor
    generated: Tensor


@torch.inference_mode()
def walk_interests(walk_class: type[Walk], decoder: Decoder, rows: Tensor, number: int) -> Walked:
    """J interests of histories (B, T), each step's best item fed back; G = J - 1."""
    walk = walk_class(decoder, rows)
    interests, generated = [walk.interest], [rows[:, :0]]
    for _ in range(1, number):
        generated.append(_best(decoder, walk.interest))
        walk.feed(generated[-1], [PROMPT])
        interests.append(walk.interest)
    return Walked(torch.stack(interests, dim=1), torch.cat(generated, dim=1))


@torch.inference_mode()
def walk_prompts(walk_class: type[Walk], decoder: Decoder, rows: Tensor, number: int) -> Walked:
    """The interest after histories (B, n) into which K >= 1 generated prompts are put before each item but the first.

    J = 1 and G = (n - 1) K. Source: Algorithm 1 of the paper (arXiv 2404.08675), at request time.
    """
    walk = walk_class(decoder, rows[:, :1])
    generated = [rows[:, :0]]
    for real in range(1, rows.shape[1]):
        for _ in range(number - 1):
            generated.append(_best(decoder, walk.interest))
            walk.feed(generated[-1], [PROMPT])
        # The real item goes in together with the last generated one.
        generated.append(_best(decoder, walk.interest))
        walk.feed(torch.cat([generated[-1], rows[:, real : real + 1]], dim=1), [PROMPT, BEHAVIOUR])
    return Walked(walk.interest[:, None], torch.cat(generated, dim=1))


@torch.inference_mode()
def share_of_equal_walks(expected: Walked, found: Walked, decoder: Decoder, *, k: int) -> float:
    """Share of rows with the same generated items, and the same k best items of every interest in the same order."""
    best = [(walked.interests @ decoder.item_matrix.T).topk(k, dim=2).indices for walked in (expected, found)]
    same_lists = (best[0] == best[1]).flatten(1).all(dim=1)
    same_items = (expected.generated == found.generated).all(dim=1)
    return float((same_lists & same_items).float().mean())


def _best(decoder: Decoder, interest: Tensor) -> Tensor:
    return (interest @ decoder.item_matrix.T).argmax(dim=1, keepdim=True)
