"""Ranks of held-out targets: in the whole catalogue, and in the list that recall would serve."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recgpt.data.split import NOT_EVALUATED, Split, Stage
from recgpt.model.decoder import Decoder
from recgpt.model.item_table import PADDING_ROW
from recgpt.training.batches import EvaluationBatch, collate_evaluation, evaluation_examples
from recgpt.types import PROMPT, Int64Array

_NOTHING = np.zeros(0, dtype=np.int64)


def target_ranks(scores: Tensor, targets: Tensor, excluded: Tensor) -> Tensor:
    """The place of each target among the items that are candidates.

    Ties count against the model, and so does a score that is no number. A target that is excluded is ranked last.

    Args:
        scores: (B, V + 1) float32; changed: minus infinity where there is no candidate.
        targets: (B,) int64 rows, 1..V.
        excluded: (B, E) int64 rows that are no candidates, filled up with 0.

    Returns:
        (B,) int64, 1 is the best.
    """
    scores = _exclude(scores, excluded)
    worse = scores < scores.gather(1, targets.unsqueeze(1))
    # Bytes are summed several times as fast as truth values.
    return scores.shape[1] - worse.view(torch.uint8).sum(dim=1, dtype=torch.int32).long()


def recalled_ranks(decoder: Decoder, batch: EvaluationBatch, quotas: Sequence[int]) -> Tensor:
    """The place of each target in the list that recall would serve for plain histories.

    Source: section 4.4 of the paper (arXiv 2404.08675), for any number of steps: each takes its quota of unseen items
    that no step before it took, and the best unseen one is fed back as a generated token.

    Args:
        decoder: in evaluation mode.
        batch: histories that leave room in the window for the generated tokens.
        quotas: items from each step, at least 1.

    Returns:
        (B,) int64, 1 is the best, 0 = not in the list.
    """
    interest, past = decoder.prefill(batch.user_rows, batch.item_rows, batch.segments, batch.lengths)
    cached = torch.arange(batch.item_rows.shape[1], device=interest.device) < batch.lengths.unsqueeze(1)
    ranks = torch.zeros_like(batch.targets)
    taken = generated = batch.seen
    for step, quota in enumerate(quotas):
        # What was generated was taken as well, so one matrix of scores serves both.
        scores = _exclude(interest @ decoder.item_matrix.T, generated)
        is_last = step + 1 == len(quotas)
        next_item = generated[:, :0] if is_last else scores.argmax(dim=1, keepdim=True)
        found = target_ranks(scores, batch.targets, taken)
        ranks = torch.where((ranks == 0) & (found <= quota), found + sum(quotas[:step]), ranks)
        if is_last:
            break
        best = scores.topk(min(quota, decoder.num_items), dim=1).indices
        taken, generated = torch.cat([taken, best], dim=1), torch.cat([generated, next_item], dim=1)
        positions = batch.lengths.unsqueeze(1) + step
        segments = torch.full_like(next_item, PROMPT)
        interest, new = decoder.extend(batch.user_rows, next_item, segments, positions, past, cached)
        past = torch.cat([past, new], dim=4)
        cached = torch.cat([cached, torch.ones_like(cached[:, :1])], dim=1)
    return ranks


@torch.no_grad()
def held_out_ranks(
    decoder: Decoder,
    split: Split,
    quotas: Sequence[int],
    *,
    stage: Stage = "test",
    filter_seen: bool = True,
    batch_size: int = 512,
) -> Int64Array:
    """The place of every held-out target in the list that recall would serve, as ``recalled_ranks``.

    For many models and quotas on one data set: some ten times as fast as recalling through ids and an index.

    Args:
        decoder: in evaluation mode.
        split: histories and targets.
        quotas: items from each step.
        stage: ``test`` or ``validation``.
        filter_seen: leave items of the history out of the lists.
        batch_size: users at once.

    Returns:
        (N,) 1-based ranks of the users that are evaluated, in their order; 0 = not in the list.
    """
    targets = split.targets(stage)[:, 0]
    max_length = decoder.config.max_length - (len(quotas) - 1)
    examples = evaluation_examples(split.history(stage), targets, max_length)
    if not filter_seen:
        examples = [dataclasses.replace(example, seen=_NOTHING) for example in examples]
    ranks = np.zeros(len(targets) + 1, dtype=np.int64)
    for start in range(0, len(examples), batch_size):
        batch = collate_evaluation(examples[start : start + batch_size])
        ranks[batch.user_rows.numpy()] = recalled_ranks(decoder, batch, quotas).numpy()
    found: Int64Array = ranks[1:][targets != NOT_EVALUATED]
    return found


def _exclude(scores: Tensor, excluded: Tensor) -> Tensor:
    """Sets scores of padding and of the excluded rows to minus infinity, in place."""
    scores[:, PADDING_ROW] = -torch.inf
    return scores.scatter_(1, excluded, -torch.inf)
