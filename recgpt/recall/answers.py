"""From rows that were found to the users' own ids; popular items where nothing else can be said."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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
    rows, bounds = merged.rows.tolist(), itertools.pairwise([0, *merged.ends.tolist()])
    return [
        _answer(catalogue, rows[start:end], merged.scores[start:end], merged.steps[start:end], between, degraded)
        for between, (start, end) in zip(_ids_of_each(catalogue, generated), bounds, strict=True)
    ]


def recalled_answers(catalogue: Catalogue, output: RecallOutput, quotas: Int64Array) -> list[Answer]:
    """What a graph recalled for quotas (B, J)."""
    numbers = quotas.sum(axis=1).tolist()
    rows, generated = output.rows[:, : max(numbers)].tolist(), _ids_of_each(catalogue, output.generated_rows)
    lists = zip(rows, output.scores, output.steps, generated, numbers, strict=True)
    return [
        _answer(catalogue, its_rows[:number], scores[:number], steps[:number], between)
        for its_rows, scores, steps, between, number in lists
    ]


def _ids_of_each(catalogue: Catalogue, rows: Int64Array) -> list[tuple[ItemId, ...]]:
    """The ids of each request's rows (B, N); looked up together, which is cheaper where there are few of each."""
    ids, width = catalogue.item_ids.ids_of(rows.ravel().tolist()), rows.shape[1]
    return [ids[start : start + width] for start in range(0, len(ids), width)] if width else [()] * len(rows)


def _answer(
    catalogue: Catalogue,
    rows: Sequence[int],
    scores: Float32Array,
    steps: Int64Array,
    generated_ids: tuple[ItemId, ...],
    degraded: Degraded | None = None,
) -> Answer:
    return {
        "item_ids": catalogue.item_ids.ids_of(rows),
        "scores": scores,
        "steps": steps,
        "generated_ids": generated_ids,
        "degraded": degraded,
    }


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
