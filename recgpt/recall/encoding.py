"""From requests in the users' own ids to token rows; the cold-start rules are decided here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recgpt.backends.base import Tokens
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.merge import default_quotas
from recgpt.types import BEHAVIOUR, ColdStart, Int64Array, RecallRequest


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedRequest:
    """One request in rows.

    Attributes:
        user_row: 0 = the shared user.
        item_rows: (n,) int64, the items of the whole history that the model knows, oldest first.
        segments: (n,) int64.
        quotas: as asked for, or the default.
        merge: one of MERGES.
        excluded: distinct rows never to be returned, without those that nobody is ever returned.
        never_generated: (E,) int64, distinct rows never to be fed back: all of the model's that are not returned.
        cold_start: the rules that apply.
    """

    user_row: int
    item_rows: Int64Array
    segments: Int64Array
    quotas: tuple[int, ...]
    merge: str
    excluded: frozenset[int]
    never_generated: Int64Array
    cold_start: ColdStart


def encode_request(request: RecallRequest, catalogue: Catalogue, *, prompt_tuned: bool) -> EncodedRequest:
    """Looks up a request's ids: unknown items are dropped and counted, an unknown user becomes the shared one."""
    user_row = 0 if request.user_id is None else int(catalogue.user_ids.rows([request.user_id])[0])
    rows = catalogue.item_ids.rows(request.history)
    segments = np.array(request.segments or [BEHAVIOUR] * len(rows), dtype=np.int64)
    known = (rows > 0) & (rows <= catalogue.num_modelled)
    # A prompt was offered, not taken: it may be just what the user wants next.
    seen = rows[(rows > 0) & (segments == BEHAVIOUR)] if request.filter_seen else rows[:0]
    excluded = frozenset(seen.tolist()) - catalogue.deleted
    modelled = np.array(sorted(row for row in excluded if row <= catalogue.num_modelled), dtype=np.int64)
    return EncodedRequest(
        user_row=user_row,
        item_rows=rows[known],
        segments=segments[known],
        quotas=tuple(request.quotas or default_quotas(request.k, prompt_tuned=prompt_tuned)),
        merge=request.merge,
        excluded=excluded,
        never_generated=np.concatenate([modelled, catalogue.never_generated]),
        cold_start=ColdStart(
            shared_user=user_row == 0,
            num_unknown_items=int(len(rows) - known.sum()),
            popular=not known.any(),
        ),
    )


def batch_tokens(requests: Sequence[EncodedRequest], *, max_history: int) -> Tokens:
    """Right-pads requests into one batch, each history cut to its newest ``max_history`` items."""
    lengths = np.array([min(len(request.item_rows), max_history) for request in requests], dtype=np.int64)
    item_rows = np.zeros((len(requests), lengths.max()), dtype=np.int64)
    segments = np.zeros_like(item_rows)
    for position, (request, length) in enumerate(zip(requests, lengths, strict=True)):
        item_rows[position, :length] = request.item_rows[-length:]
        segments[position, :length] = request.segments[-length:]
    return Tokens(
        user_rows=np.array([request.user_row for request in requests], dtype=np.int64),
        item_rows=item_rows,
        segments=segments,
        lengths=lengths,
        excluded=pad_rows([request.never_generated for request in requests]),
    )


def pad_rows(rows: Sequence[Int64Array | Sequence[int]]) -> Int64Array:
    """Rows of N requests, of any number each, filled up with 0: (N, E) int64, E at least 1."""
    padded = np.zeros((len(rows), max(1, *map(len, rows))), dtype=np.int64)
    for listed, given in zip(padded, rows, strict=True):
        listed[: len(given)] = given
    return padded
