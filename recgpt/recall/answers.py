"""From rows that were found to the users' own ids; popular items where nothing else can be said."""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import EncodedRequest
from recgpt.types import Degraded, Float32Array, Int64Array, ItemId


class Answer(TypedDict):
    """The part of a ``Candidates`` that is known before the clock stops."""

    item_ids: tuple[ItemId, ...]
    scores: Float32Array
    steps: Int64Array
    generated_ids: tuple[ItemId, ...]
    degraded: Degraded | None


def answer_of(
    catalogue: Catalogue,
    rows: Int64Array,
    scores: Float32Array,
    steps: Int64Array,
    generated: Int64Array,
    degraded: Degraded | None = None,
) -> Answer:
    """The answer in ids: k rows with scores and steps, the rows generated on the way, and why it is less than asked."""
    return {
        "item_ids": catalogue.item_ids.ids_of(rows),
        "scores": scores,
        "steps": steps,
        "generated_ids": catalogue.item_ids.ids_of(generated),
        "degraded": degraded,
    }


def popular_answer(request: EncodedRequest, catalogue: Catalogue, degraded: Degraded | None = None) -> Answer:
    """The most popular items that the request may be given."""
    k, rows = sum(request.quotas), catalogue.popular_rows
    if request.allowed is not None:
        rows = rows[np.isin(rows, request.allowed)][:k]
    else:
        # Items of the history that the model does not know may be in the catalogue, and seen.
        rows = rows[: k + len(request.excluded)]
        rows = rows[~np.isin(rows, list(request.excluded))][:k]
    scores = catalogue.popularity[rows].astype(np.float32)
    return answer_of(catalogue, rows, scores, np.zeros(k, dtype=np.int64), rows[:0], degraded)
