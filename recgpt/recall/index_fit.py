"""How far an approximate search has to go to find what an exact one finds: measured where it is built."""

from __future__ import annotations

from typing import Any

from recgpt.metrics import ann_recall_at_k
from recgpt.recall.index import ItemIndex
from recgpt.recall.index_ann import IndexKind, Neighbours
from recgpt.types import Float32Array

# Above the 0.95 that is promised, since other queries than those at hand are served.
MIN_RECALL = 0.97
FOUND = 100


def fit_neighbours(
    exact: ItemIndex, kind: IndexKind, queries: Float32Array, *, min_recall: float = MIN_RECALL
) -> tuple[Neighbours, dict[str, Any]]:
    """Builds an approximate index, and raises its effort by a quarter until it finds enough.

    Args:
        exact: of all items.
        kind: any but FLAT.
        queries: (N, D) float32 to measure with.
        min_recall: of the exact answers' 100 best.

    Returns:
        The index, and what to say of it: kind, parameters, effort, and the share of the k best among the candidates.
    """
    k = min(FOUND, exact.num_items)
    neighbours = Neighbours.build(kind, exact.vectors())
    expected, _ = exact.search(queries, k)
    while True:
        # Not by a search, which makes up for too few candidates at the price of an exact one.
        named = neighbours.candidates(queries, min(neighbours.candidates_per_found * k, exact.num_items)) + 1
        recall = ann_recall_at_k(named, expected)
        if recall >= min_recall or neighbours.effort >= neighbours.max_effort:
            break
        neighbours.effort = min(neighbours.effort + max(1, neighbours.effort // 4), neighbours.max_effort)
    return neighbours, {
        "kind": str(kind),
        "parameters": neighbours.parameters,
        "effort": neighbours.effort,
        "k": k,
        "ann_recall_at_k": recall,
        "num_queries": len(queries),
    }
