"""From rows that were found to the users' own ids; popular items where nothing else can be said."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TypedDict

import numpy as np

from recgpt.backends.base import RecallOutput
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import EncodedRequest
from recgpt.recall.merge import Merged
from recgpt.types import Candidates, Degraded, Float32Array, Int64Array, ItemId, Timings


class Answer(TypedDict):
    """The part of a ``Candidates`` that is known before the clock stops; see there."""

    item_ids: tuple[ItemId, ...]
    scores: Float32Array
    steps: Int64Array
    generated_ids: tuple[ItemId, ...]
    degraded: Degraded | None


def answers_of(
    catalogue: Catalogue, merged: Merged, generated: Int64Array, degraded: Degraded | None = None
) -> list[Answer]:
    """B lists in ids, with the rows generated on the way (B, J - 1), and why they are less than asked."""
    spans = itertools.pairwise([0, *merged.ends.tolist()])
    return _answers(catalogue, merged.rows, merged.scores, merged.steps, spans, generated, degraded)


def recalled_answers(catalogue: Catalogue, output: RecallOutput, quotas: Int64Array) -> list[Answer]:
    """What a graph recalled for quotas (B, J)."""
    numbers = quotas.sum(axis=1).tolist()
    width = max(numbers)
    lists = output.first(width)
    spans = [(place * width, place * width + number) for place, number in enumerate(numbers)]
    rows = lists.rows
    if min(numbers) < width:
        # No row stands behind a shorter list; any will do there, and there only.
        rows = np.where(np.arange(width) < quotas.sum(axis=1, keepdims=True), rows, 1)
    flat = (rows.ravel(), lists.scores.ravel(), lists.steps.ravel())
    return _answers(catalogue, *flat, spans, output.generated_rows)


def _answers(
    catalogue: Catalogue,
    rows: Int64Array,
    scores: Float32Array,
    steps: Int64Array,
    spans: Iterable[tuple[int, int]],
    generated: Int64Array,
    degraded: Degraded | None = None,
) -> list[Answer]:
    """The answers of B requests, of arrays (M,) in which each has a span; ids looked up together, which is cheaper."""
    ids, num_generated = catalogue.item_ids.ids_of(rows.tolist()), generated.shape[1]
    between = catalogue.item_ids.ids_of(generated.ravel().tolist())
    return [
        {
            "item_ids": ids[start:end],
            "scores": scores[start:end],
            "steps": steps[start:end],
            "generated_ids": between[place * num_generated : (place + 1) * num_generated],
            "degraded": degraded,
        }
        for place, (start, end) in enumerate(spans)
    ]


def candidates_of(answer: Answer, request: EncodedRequest, timings: Timings) -> Candidates:
    """The whole of what a request is answered."""
    made = object.__new__(Candidates)
    # As the constructor, which sets attributes of a frozen class one by one and takes several times as long.
    vars(made).update(
        answer,
        cold_start=request.cold_start,
        timings=timings,
        num_unknown_filters=request.num_unknown_filters,
    )
    return made


def popular_answer(request: EncodedRequest, catalogue: Catalogue, degraded: Degraded | None = None) -> Answer:
    """The most popular items that the request may be given."""
    k, rows = request.k, catalogue.popular_rows
    if request.allowed is not None:
        rows = rows[np.isin(rows, request.allowed)][:k]
    else:
        # Items of the history that the model does not know may be in the catalogue, and seen.
        rows = rows[: k + len(request.excluded)]
        rows = rows[~np.isin(rows, list(request.excluded))][:k]
    return {
        "item_ids": catalogue.item_ids.ids_of(rows.tolist()),
        "scores": catalogue.popularity[rows].astype(np.float32),
        "steps": np.zeros(k, dtype=np.int64),
        "generated_ids": (),
        "degraded": degraded,
    }
