"""Prompt-enhanced histories: Algorithm 1 of the paper. Knows a decoder and rows; nothing of files or training.

Before each real item except the first, the model generates the K items it would have offered there. They stand in the
sequence with segment 1:

    v1, p2_1 .. p2_K, v2, p3_1 .. p3_K, v3, ...
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recgpt.errors import ConfigError
from recgpt.model.decoder import Decoder
from recgpt.model.item_table import PADDING_ROW
from recgpt.types import BEHAVIOUR, PROMPT, Int64Array, PromptedHistory


def num_real_items(max_length: int, num_prompts: int) -> int:
    """How many real items n fit a window C together with their prompts: n + K (n - 1) <= C."""
    return (max_length + num_prompts) // (num_prompts + 1)


def generate_prompts(
    decoder: Decoder,
    user_rows: Int64Array,
    histories: Sequence[Int64Array],
    *,
    num_prompts: int,
    batch_size: int = 256,
) -> list[PromptedHistory]:
    """Enriches histories with the items the model would have offered between the real ones.

    A generated item is the best one that the user had not seen by then and that was not generated before: what serving
    would have fed back at that moment. Items that come later in the history are candidates like any other.

    Source: Algorithm 1 and section 4.3 of the paper (arXiv 2404.08675). Two deviations: the paper takes the argmax over
    all items, seen ones included; and it keeps the last C tokens of the result, where here the history is cut to its
    newest items *before* generation, so that all fits the window and no token's position changes.

    Args:
        decoder: generates; put into evaluation mode for the time of the call.
        user_rows: (U,) rows, 0 for the shared user.
        histories: U arrays of item rows, oldest first.
        num_prompts: K, 0 or more.
        batch_size: histories generated for at once.

    Returns:
        Item rows and segments of each history, both int64, n + K (n - 1) long, in the order given.

    Raises:
        ConfigError: the catalogue has too few items to generate distinct unseen ones.
    """
    if num_prompts == 0:
        cut = [history[-decoder.config.max_length :] for history in histories]
        return [(history, np.full_like(history, BEHAVIOUR)) for history in cut]
    check_catalogue(decoder.num_items, decoder.config.max_length, histories, num_prompts)
    prompted: list[PromptedHistory] = [(np.zeros(0, np.int64), np.zeros(0, np.int64))] * len(histories)
    # Longest first: rows that are finished stand at the end of a batch and are sliced off.
    order = sorted((index for index, h in enumerate(histories) if len(h)), key=lambda index: -len(histories[index]))
    was_training = decoder.training
    decoder.eval()
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = _generate_batch(decoder, user_rows[chosen], [histories[index] for index in chosen], num_prompts)
            for index, result in zip(chosen, batch, strict=True):
                prompted[index] = result
    finally:
        decoder.train(was_training)
    return prompted


@torch.no_grad()
def _generate_batch(
    decoder: Decoder, user_rows: Int64Array, histories: Sequence[Int64Array], num_prompts: int
) -> list[PromptedHistory]:
    """One batch, longest history first; all rows walk in step, so that no cached token is ever padding."""
    device, stride = decoder.item_matrix.device, num_prompts + 1
    kept = [history[-num_real_items(decoder.config.max_length, num_prompts) :] for history in histories]
    users = torch.as_tensor(user_rows, device=device)
    rows = _spread(kept, stride).to(device)
    segments = torch.where(torch.arange(rows.shape[1], device=device) % stride == 0, BEHAVIOUR, PROMPT).unsqueeze(0)
    seen = _seen_at_start(histories, kept, decoder.num_items).to(device)
    interest, past = decoder.prefill(users, rows[:, :1], torch.zeros_like(rows[:, :1]), torch.ones_like(users))
    for real in range(1, len(kept[0])):
        active = sum(len(history) > real for history in kept)
        users, rows_left, seen = users[:active], rows[:active], seen[:active]
        interest, past = interest[:active], past[:active]
        for position in range(real * stride - num_prompts, real * stride):
            best = (interest @ decoder.item_matrix.T).masked_fill(seen, -torch.inf).argmax(dim=1, keepdim=True)
            rows_left[:, position : position + 1] = best
            seen.scatter_(1, best, True)
            # The real item is fed together with the last generated one.
            stop = position + 2 if position == real * stride - 1 else position + 1
            interest, past = _feed(decoder, users, rows_left, segments, past, stop)
        seen.scatter_(1, rows_left[:, real * stride : real * stride + 1], True)
    table, pattern = rows.cpu().numpy(), segments[0].cpu().numpy()
    ends = [len(history) * stride - num_prompts for history in kept]
    return [(table[row, :end].copy(), pattern[:end].copy()) for row, end in enumerate(ends)]


def _feed(
    decoder: Decoder, users: Tensor, rows: Tensor, segments: Tensor, past: Tensor, stop: int
) -> tuple[Tensor, Tensor]:
    """Feeds the tokens from the end of the cache up to ``stop``: the interest after them, and the longer cache."""
    start = past.shape[4]
    batch = len(rows)
    positions = torch.arange(start, stop, device=rows.device).expand(batch, -1)
    cached = torch.ones((batch, start), dtype=torch.bool, device=rows.device)
    new_segments = segments[:, start:stop].expand(batch, -1)
    interest, new = decoder.extend(users, rows[:, start:stop], new_segments, positions, past, cached)
    return interest, torch.cat([past, new], dim=4)


def _spread(histories: Sequence[Int64Array], stride: int) -> Tensor:
    """Real items at every ``stride``-th position, longest history first: (B, widest), 0 elsewhere."""
    rows = np.full((len(histories), (len(histories[0]) - 1) * stride + 1), PADDING_ROW, dtype=np.int64)
    for row, history in enumerate(histories):
        rows[row, : len(history) * stride : stride] = history
    return torch.from_numpy(rows)


def _seen_at_start(histories: Sequence[Int64Array], kept: Sequence[Int64Array], num_items: int) -> Tensor:
    """(B, V + 1) bool: padding, the items that were cut off, and the first kept one."""
    seen = np.zeros((len(histories), num_items + 1), dtype=bool)
    seen[:, PADDING_ROW] = True
    for row, (history, tail) in enumerate(zip(histories, kept, strict=True)):
        seen[row, history[: len(history) - len(tail) + 1]] = True
    return torch.from_numpy(seen)


def check_catalogue(num_items: int, max_length: int, histories: Sequence[Int64Array], num_prompts: int) -> None:
    """ConfigError if a catalogue has too few items to generate distinct unseen ones for every history."""
    window = num_real_items(max_length, num_prompts)
    needed = max(
        (len(np.unique(items)) + num_prompts * (min(len(items), window) - 1) for items in histories if len(items)),
        default=0,
    )
    if num_prompts and needed > num_items:
        raise ConfigError(
            f"num_prompts = {num_prompts} needs up to {needed} distinct items for one user, and the catalogue has "
            f"{num_items}; choose fewer prompts, 0 for none"
        )
