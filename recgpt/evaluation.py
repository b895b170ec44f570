"""Offline quality of whatever recalls: leave-one-out, ranked over the whole catalogue, seen items left out.

Runs the same recall that serves, so the numbers are those of the lists users get. A tie counts against the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from recgpt.data.split import Split, Stage
from recgpt.errors import DataError, QuotaError, ShortfallError
from recgpt.metrics import hit_rate_at_k, ndcg_at_k, target_rank
from recgpt.recall.recaller import PretrainedOnlyWarning, Recaller
from recgpt.types import BEHAVIOUR, Candidates, Int64Array, ItemId, PromptedHistory, RecallRequest

CUTOFFS = (5, 10)

Metrics = dict[str, float]
# Called with the number of users done and the number of all users.
Progress = Callable[[int, int], None]


def evaluate(
    recaller: Recaller,
    split: Split,
    *,
    stage: Stage = "test",
    quotas: Sequence[int] = (10,),
    filter_seen: bool = True,
    max_unclicked: int = 0,
    batch_size: int = 512,
    progress: Progress | None = None,
) -> Metrics:
    """Hit rate and NDCG of recalled lists; arguments and errors as in ``target_ranks``.

    Returns:
        ``hr@5``, ``hr@10``, ``ndcg@5``, ``ndcg@10``.
    """
    ranks = target_ranks(
        recaller,
        split,
        stage=stage,
        quotas=quotas,
        filter_seen=filter_seen,
        max_unclicked=max_unclicked,
        batch_size=batch_size,
        progress=progress,
    )
    return summarise(ranks)


def target_ranks(
    recaller: Recaller,
    split: Split,
    *,
    stage: Stage = "test",
    quotas: Sequence[int] = (10,),
    filter_seen: bool = True,
    max_unclicked: int = 0,
    batch_size: int = 512,
    progress: Progress | None = None,
) -> Int64Array:
    """Ranks of the held-out items in the recalled lists, for metrics and for comparing two models user by user.

    Args:
        recaller: engine, client, or a Recaller over the eager backend.
        split: held-out targets and the histories before them, in rows of the recaller's catalogue.
        stage: ``test`` or ``validation``.
        quotas: items from each step; their sum is k, at least the largest cut-off. One quota is the paper's RecGPT_1.
        filter_seen: leave behaviours of the history out of the lists (the usual protocol; Yelp's repeats are then
            misses). What was only shown stays a candidate, for models that know of it and models that do not.
        max_unclicked: the most items that were shown and not clicked to send between two behaviours, as prompts:
            ``TrainingState.max_unclicked`` of the model.
        batch_size: users a call.
        progress: called after each batch.

    Returns:
        (N,) int64, 1-based, 0 = not in the list; of the users who have a target, in the order of their rows.

    Raises:
        QuotaError: the quotas give fewer items than the largest cut-off.
        DataError: nobody has enough items to be evaluated, or unclicked items are to be sent and the data has none.
    """
    if sum(quotas) < max(CUTOFFS):
        raise QuotaError(
            f"quotas {tuple(quotas)} give {sum(quotas)} items; expected at least {max(CUTOFFS)}, the largest cut-off"
        )
    targets = split.targets(stage)
    users = np.flatnonzero(targets)
    histories = _histories(split, stage, max_unclicked)
    ranks = np.zeros(len(users), dtype=np.int64)
    for start in range(0, len(users), batch_size):
        batch = users[start : start + batch_size]
        requests = [_request(recaller, int(user) + 1, histories[user], quotas, filter_seen) for user in batch]
        with warnings.catch_warnings():
            # The harm of two steps on a pre-trained model is here something to measure, not to warn of.
            warnings.simplefilter("ignore", PretrainedOnlyWarning)
            ranks[start : start + len(batch)] = _ranks(recaller, requests, targets[batch])
        if progress is not None:
            progress(min(start + batch_size, len(users)), len(users))
    return ranks


def evaluate_popularity(recaller: Recaller, split: Split, *, stage: Stage = "test") -> Metrics:
    """The same for the unpersonalised list: the most popular items the user has not seen."""
    targets, histories = split.targets(stage), split.history(stage)
    popularity = recaller.catalogue.popularity
    users = np.flatnonzero(targets)
    ranks = np.zeros(len(users), dtype=np.int64)
    for position, user in enumerate(users):
        if targets[user] in histories[user]:
            continue  # seen items are not in the list, so the target is not found
        # Ties count against it: every unseen item that is as popular stands before the target.
        at_least = popularity >= popularity[targets[user]]
        at_least[0] = False
        at_least[histories[user]] = False
        ranks[position] = at_least.sum()
    return summarise(ranks)


def summarise(ranks: Int64Array) -> Metrics:
    """Metrics of 1-based ranks (N,), 0 = not found; DataError if there are none."""
    if len(ranks) == 0:
        raise DataError("nobody to evaluate: expected users with at least 3 items, the last of which is held out")
    rates = {f"hr@{k}": hit_rate_at_k(ranks, k) for k in CUTOFFS}
    return rates | {f"ndcg@{k}": ndcg_at_k(ranks, k) for k in CUTOFFS}


def _ranks(recaller: Recaller, requests: Sequence[RecallRequest], targets: Int64Array) -> list[int]:
    ranks = []
    for request, answer, target in zip(requests, recaller.recall_many(requests), targets.tolist(), strict=True):
        rows = recaller.catalogue.item_ids.rows(answer.item_ids)
        rank = target_rank(rows, answer.scores, answer.steps, target)
        ranks.append(0 if rank and _tie_is_cut_off(recaller, request, answer, rank) else rank)
    return ranks


def _tie_is_cut_off(recaller: Recaller, request: RecallRequest, answer: Candidates, rank: int) -> bool:
    """Whether the item at ``rank`` ends its step's part of the list and the one its quota left out scores the same."""
    step = int(answer.steps[rank - 1])
    if step in answer.steps[rank:]:
        return False
    quotas = [quota + (number == step) for number, quota in enumerate(request.quotas or (request.k,), start=1)]
    try:
        longer = recaller.recall_many([replace(request, k=request.k + 1, quotas=quotas)])[0]
    except ShortfallError:
        return False  # nothing was left out
    return bool(longer.scores[rank - 1] == longer.scores[rank])


def _histories(split: Split, stage: Stage, max_unclicked: int) -> Sequence[PromptedHistory]:
    if max_unclicked:
        return split.history_with_unclicked(stage, max_unclicked)
    return [(items, np.full_like(items, BEHAVIOUR)) for items in split.history(stage)]


def _request(
    recaller: Recaller, user_row: int, history: PromptedHistory, quotas: Sequence[int], filter_seen: bool
) -> RecallRequest:
    item_ids = recaller.catalogue.item_ids
    rows, segments = history
    ids: list[ItemId] = [item_ids.id(row) for row in rows.tolist()]
    return RecallRequest(
        history=ids,
        segments=segments.tolist(),
        user_id=recaller.catalogue.user_ids.id(user_row),
        k=sum(quotas),
        quotas=quotas,
        filter_seen=filter_seen,
    )
