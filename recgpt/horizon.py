"""What several steps are for: several of a user's next items found, in lists that differ from each other."""

from __future__ import annotations

from collections.abc import Sequence

from recgpt.evaluation import UserLists
from recgpt.list_metrics import (
    catalogue_coverage,
    intra_list_distance,
    mean_popularity,
    new_items_by_step,
    popular_share,
    share_outside,
)
from recgpt.metrics import set_recall_at_k
from recgpt.recall.recaller import Recaller

HorizonMetrics = dict[str, float | list[int]]


def summarise_horizon(
    lists: UserLists, one_step: UserLists, recaller: Recaller, *, num_interests: int, cutoffs: Sequence[int]
) -> HorizonMetrics:
    """Set recall of the targets, and what the lists are like.

    Distances are between the model's own item vectors: they compare lists of one model, not models with each other.

    Args:
        lists: of ``evaluate_lists``, on a split of several targets.
        one_step: of the same users, by one step and as long.
        recaller: what made the lists.
        num_interests: J of the lists.
        cutoffs: of the set recall, at most the length of the lists.

    Returns:
        ``recall@k`` of each cut-off; ``intra_list_distance``, ``coverage``, ``mean_popularity``, ``popular_share`` (of
        the catalogue's most popular fifth), ``outside_one_step`` (share of items that the list of one step does not
        hold); ``new_items_by_step``, J numbers.
    """
    rows, catalogue = lists.item_rows, recaller.catalogue
    recall: HorizonMetrics = {f"recall@{k}": set_recall_at_k(lists.target_ranks, k) for k in cutoffs}
    return recall | {
        "intra_list_distance": intra_list_distance(rows, recaller.index.vectors()),
        "coverage": catalogue_coverage(rows, recaller.index.num_items),
        "mean_popularity": mean_popularity(rows, catalogue.popularity),
        "popular_share": popular_share(rows, catalogue.popular_rows),
        "outside_one_step": share_outside(rows, one_step.item_rows),
        "new_items_by_step": new_items_by_step(rows, lists.steps, num_interests).tolist(),
    }
