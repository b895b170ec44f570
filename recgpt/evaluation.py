"""Offline quality of whatever recalls: held-out items, ranked over the whole catalogue, seen items left out.

Runs the same recall that serves, so the numbers are those of the lists users get. A tie counts against the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recgpt.data.split import Split, Stage
from recgpt.errors import DataError, QuotaError, ShortfallError
from recgpt.metrics import NO_TARGET, NOT_FOUND, hit_rate_at_k, ndcg_at_k, target_rank
from recgpt.recall.core import PretrainedOnlyWarning
from recgpt.recall.recaller import Recaller
from recgpt.types import BEHAVIOUR, Candidates, Int64Array, ItemId, PromptedHistory, RecallRequest

CUTOFFS = (5, 10)

Metrics = dict[str, float]
# Called with the number of users done and the number of all users.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class UserLists:
    """What recall gave each evaluated user, and where the held-out targets stand in it.

    Attributes:
        user_rows: (N,) int64, ascending; the same for whatever is evaluated on the same stage of the same split, so
            that results can be compared user by user.
        target_ranks: (N, T) int64, 1-based, ties counted against the model; 0 = not in the list, -1 = the same item as
            a target before it.
        item_rows: (N, k) int64, the lists as recalled.
        steps: (N, k) int64, the step that each item is owed to.
    """

    user_rows: Int64Array
    target_ranks: Int64Array
    item_rows: Int64Array
    steps: Int64Array

    @property
    def ranks(self) -> Int64Array:
        """(N,) int64, ranks of the first target: the user's next item."""
        return self.target_ranks[:, 0]


def evaluate_lists(
    recaller: Recaller,
    split: Split,
    *,
    stage: Stage = "test",
    quotas: Sequence[int] = (10,),
    merge: str = "quotas",
    filter_seen: bool = True,
    max_unclicked: int = 0,
    batch_size: int = 512,
    progress: Progress | None = None,
) -> UserLists:
    """Recalls a list for every evaluated user and looks the targets up in it.

    Args:
        recaller: engine, client, or a Recaller over the eager backend.
        split: held-out targets and the histories before them, in rows of the recaller's catalogue.
        stage: ``test`` or ``validation``.
        quotas: items from each step; their sum is k. One quota is the paper's RecGPT_1.
        merge: as in RecallRequest.
        filter_seen: leave behaviours of the history out of the lists (the usual protocol; Yelp's repeats are then
            misses). What was only shown stays a candidate, for models that know of it and models that do not.
        max_unclicked: the most items that were shown and not clicked to send between two behaviours, as prompts:
            ``TrainingState.max_unclicked`` of the model.
        batch_size: users a call.
        progress: called after each batch.

    Raises:
        DataError: nobody has enough items to be evaluated, or unclicked items are to be sent and the data has none.
        ShortfallError: the catalogue has fewer than k unseen items for somebody.
    """
    targets, histories = split.targets(stage), _histories(split, stage, max_unclicked)
    users = _evaluated(targets)
    found = UserLists(
        user_rows=users + 1,
        target_ranks=np.zeros((len(users), targets.shape[1]), dtype=np.int64),
        item_rows=np.zeros((len(users), sum(quotas)), dtype=np.int64),
        steps=np.zeros((len(users), sum(quotas)), dtype=np.int64),
    )
    for start in range(0, len(users), batch_size):
        batch = users[start : start + batch_size]
        requests = [_request(recaller, int(user) + 1, histories[user], quotas, merge, filter_seen) for user in batch]
        with warnings.catch_warnings():
            # The harm of two steps on a pre-trained model is here something to measure, not to warn of.
            warnings.simplefilter("ignore", PretrainedOnlyWarning)
            answers = recaller.recall_many(requests)
            for position, (request, answer) in enumerate(zip(requests, answers, strict=True), start=start):
                found.item_rows[position] = recaller.catalogue.item_ids.rows(answer.item_ids)
                found.steps[position] = answer.steps
                found.target_ranks[position] = _target_ranks(
                    recaller, request, answer, found.item_rows[position], targets[users[position]].tolist()
                )
        if progress is not None:
            progress(min(start + batch_size, len(users)), len(users))
    return found


def evaluate(
    recaller: Recaller,
    split: Split,
    *,
    stage: Stage = "test",
    quotas: Sequence[int] = (10,),
    merge: str = "quotas",
    filter_seen: bool = True,
    cutoffs: Sequence[int] = CUTOFFS,
    max_unclicked: int = 0,
    batch_size: int = 512,
    progress: Progress | None = None,
) -> Metrics:
    """Hit rate and NDCG of the next item in recalled lists.

    Args:
        recaller: as in ``evaluate_lists``.
        split: as in ``evaluate_lists``.
        stage: ``test`` or ``validation``.
        quotas: items from each step; their sum is k, at least the largest cut-off. One quota is the paper's RecGPT_1.
        merge: as in RecallRequest.
        filter_seen: as in ``evaluate_lists``.
        cutoffs: of the metrics.
        max_unclicked: as in ``evaluate_lists``.
        batch_size: users a call.
        progress: called after each batch.

    Returns:
        ``hr@5``, ``hr@10``, ``ndcg@5``, ``ndcg@10``; or of other cut-offs.

    Raises:
        QuotaError: the quotas give fewer items than the largest cut-off.
        DataError: nobody has enough items to be evaluated, or unclicked items are to be sent and the data has none.
    """
    if sum(quotas) < max(cutoffs):
        raise QuotaError(
            f"quotas {tuple(quotas)} give {sum(quotas)} items; expected at least {max(cutoffs)}, the largest cut-off"
        )
    lists = evaluate_lists(
        recaller,
        split,
        stage=stage,
        quotas=quotas,
        merge=merge,
        filter_seen=filter_seen,
        max_unclicked=max_unclicked,
        batch_size=batch_size,
        progress=progress,
    )
    return summarise(lists.ranks, cutoffs)


def evaluate_popularity(recaller: Recaller, split: Split, *, stage: Stage = "test") -> Metrics:
    """The same for the unpersonalised list: the most popular items the user has not seen."""
    return summarise(popularity_ranks(recaller, split, stage=stage))


def popularity_ranks(
    recaller: Recaller, split: Split, *, stage: Stage = "test", filter_seen: bool = True
) -> Int64Array:
    """Ranks (N,) of the next item by popularity, among all items that the user has not seen or, unfiltered, among all.

    As ``UserLists.ranks``.
    """
    targets, histories = split.targets(stage), split.history(stage)
    popularity = recaller.catalogue.popularity
    users = _evaluated(targets)
    ranks = np.zeros(len(users), dtype=np.int64)
    for position, user in enumerate(users):
        target, seen = targets[user, 0], histories[user] if filter_seen else histories[user][:0]
        if target in seen:
            continue  # seen items are not in the list, so the target is not found
        # Ties count against it: every unseen item that is as popular stands before the target.
        at_least = popularity >= popularity[target]
        at_least[0] = False
        at_least[seen] = False
        ranks[position] = at_least.sum()
    return ranks


def summarise(ranks: Int64Array, cutoffs: Sequence[int] = CUTOFFS) -> Metrics:
    """Hit rate and NDCG of 1-based ranks (N,), 0 = not found, at each cut-off."""
    rates = {f"hr@{k}": hit_rate_at_k(ranks, k) for k in cutoffs}
    return rates | {f"ndcg@{k}": ndcg_at_k(ranks, k) for k in cutoffs}


def _evaluated(targets: Int64Array) -> Int64Array:
    """Places of the users with targets; DataError if there are none."""
    users = np.flatnonzero(targets[:, 0]).astype(np.int64)
    if len(users) == 0:
        raise DataError(
            f"nobody to evaluate: expected users with at least {targets.shape[1] + 2} items, the last of which are "
            "held out"
        )
    return users


def _target_ranks(
    recaller: Recaller, request: RecallRequest, answer: Candidates, item_rows: Int64Array, targets: list[int]
) -> list[int]:
    ranks = []
    for position, target in enumerate(targets):
        rank = target_rank(item_rows, answer.scores, answer.steps, target)
        if target in targets[:position]:
            ranks.append(NO_TARGET)
        elif rank != NOT_FOUND and _tie_is_cut_off(recaller, request, answer, rank):
            ranks.append(NOT_FOUND)
        else:
            ranks.append(rank)
    return ranks


def _tie_is_cut_off(recaller: Recaller, request: RecallRequest, answer: Candidates, rank: int) -> bool:
    """Whether the item at ``rank`` ends its step's part of the list and the one that was left out scores the same."""
    step = int(answer.steps[rank - 1])
    quotas = request.quotas or (request.k,)
    if request.merge == "quotas":
        is_last = step not in answer.steps[rank:]
        more = [quota + (number == step) for number, quota in enumerate(quotas, start=1)]
    else:
        is_last = rank == len(answer)
        more = [2 * quota for quota in quotas]  # keeps the weights
    if not is_last:
        return False
    try:
        longer = recaller.recall_many([replace(request, k=sum(more), quotas=more)])[0]
    except ShortfallError:
        return False  # nothing was left out; or, of a fusion, fewer than k items, which only tiny catalogues do
    return bool(longer.steps[rank] == step and longer.scores[rank - 1] == longer.scores[rank])


def _histories(split: Split, stage: Stage, max_unclicked: int) -> Sequence[PromptedHistory]:
    if max_unclicked:
        return split.history_with_unclicked(stage, max_unclicked)
    return [(items, np.full_like(items, BEHAVIOUR)) for items in split.history(stage)]


def _request(
    recaller: Recaller, user_row: int, history: PromptedHistory, quotas: Sequence[int], merge: str, filter_seen: bool
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
        merge=merge,
        filter_seen=filter_seen,
    )
