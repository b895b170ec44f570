"""Autoregressive loops in plain PyTorch, over a KV cache or over the whole sequence again and again.

All rows of a batch are equally long and nothing is excluded: this is about time, and about where a cache pays.
"""

from __future__ import annotations

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


@torch.inference_mode()
def walk_interests(walk_class: type[Walk], decoder: Decoder, rows: Tensor, number: int) -> Tensor:
    """J interests of histories (B, T), each step's best item fed back: (B, J, D)."""
    walk = walk_class(decoder, rows)
    interests = [walk.interest]
    for _ in range(1, number):
        walk.feed(_best(decoder, walk.interest), [PROMPT])
        interests.append(walk.interest)
    return torch.stack(interests, dim=1)


@torch.inference_mode()
def walk_prompts(walk_class: type[Walk], decoder: Decoder, rows: Tensor, number: int) -> Tensor:
    """The interest (B, D) after histories (B, n) into which K generated prompts are put before each item but the first.

    Source: Algorithm 1 of the paper (arXiv 2404.08675), at request time.
    """
    walk = walk_class(decoder, rows[:, :1])
    for real in range(1, rows.shape[1]):
        for _ in range(number - 1):
            walk.feed(_best(decoder, walk.interest), [PROMPT])
        # The real item goes in together with the last generated one.
        pair = torch.cat([_best(decoder, walk.interest), rows[:, real : real + 1]], dim=1)
        walk.feed(pair, [PROMPT, BEHAVIOUR])
    return walk.interest


def _best(decoder: Decoder, interest: Tensor) -> Tensor:
    return (interest @ decoder.item_matrix.T).argmax(dim=1, keepdim=True)
