"""From rows that were found to the users' own ids; popular items where nothing else can be said."""

from __future__ import annotations

import itertools
from typing import TypedDict

import numpy as np

from recgpt.backends.base import RecallOutput
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import EncodedRequest
from recgpt.recall.merge import Merged
from recgpt.types import Degraded, Float32Array, Int64Array, ItemId


class Answer(TypedDict):
    """The part of a ``Candidates`` that is known before the clock stops."""

    item_ids: tuple[ItemId, ...]
    scores: Float32Array
    steps: Int64Array
    generated_ids: tuple[ItemId, ...]
    degraded: Degraded | None


def answers_of(
    catalogue: Catalogue, merged: Merged, generated: Int64Array, degraded: Degraded | None = None
) -> list[Answer]:
    """B lists in ids, with the rows generated on the way (B, J - 1), and why they are less than asked."""
    item_ids = catalogue.item_ids.ids_of(merged.rows)
    generated_ids = catalogue.item_ids.ids_of(generated.ravel())
    num_generated = generated.shape[1]
    ends = merged.ends.tolist()
    return [
        {
            "item_ids": item_ids[start:end],
            "scores": merged.scores[start:end],
            "steps": merged.steps[start:end],
            "generated_ids": generated_ids[place * num_generated : (place + 1) * num_generated],
            "degraded": degraded,
        }
        for place, (start, end) in enumerate(itertools.pairwise([0, *ends]))
    ]


def recalled_answers(catalogue: Catalogue, output: RecallOutput, quotas: Int64Array) -> list[Answer]:
    """What a graph recalled for quotas (B, J)."""
    numbers = quotas.sum(axis=1)
    is_asked = np.arange(output.rows.shape[1]) < numbers[:, None]
    merged = Merged(
        rows=output.rows[is_asked],
        scores=output.scores[is_asked],
        steps=output.steps[is_asked],
        ends=numbers.cumsum(),
    )
    return answers_of(catalogue, merged, output.generated_rows)


def popular_answer(request: EncodedRequest, catalogue: Catalogue, degraded: Degraded | None = None) -> Answer:
    """The most popular items that the request may be given."""
    k, rows = sum(request.quotas), catalogue.popular_rows
    if request.allowed is not None:
        rows = rows[np.isin(rows, request.allowed)][:k]
    else:
        # Items of the history that the model does not know may be in the catalogue, and seen.
        rows = rows[: k + len(request.excluded)]
        rows = rows[~np.isin(rows, list(request.excluded))][:k]
    return {
        "item_ids": catalogue.item_ids.ids_of(rows),
        "scores": catalogue.popularity[rows].astype(np.float32),
        "steps": np.zeros(k, dtype=np.int64),
        "generated_ids": (),
        "degraded": degraded,
    }
