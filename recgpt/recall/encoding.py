"""From requests in the users' own ids to token rows; the cold-start rules are decided here."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recgpt.backends.base import Tokens
from recgpt.data.ids import UNKNOWN_ROW
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
    num_modelled = catalogue.num_modelled
    # Plain lists: histories are short, and each operation of numpy costs more than a few numbers do.
    rows: list[int] = catalogue.item_ids.rows(request.history).tolist()
    segments = request.segments or (BEHAVIOUR,) * len(rows)
    known = [0 < row <= num_modelled for row in rows]
    # A prompt was offered, not taken: it may be just what the user wants next.
    seen = itertools.compress(rows, (segment == BEHAVIOUR for segment in segments)) if request.filter_seen else ()
    excluded = frozenset(seen) - catalogue.deleted - {UNKNOWN_ROW}
    modelled = np.array(sorted([row for row in excluded if row <= num_modelled]), dtype=np.int64)
    deleted = catalogue.never_generated
    item_rows = np.array(list(itertools.compress(rows, known)), dtype=np.int64)
    return EncodedRequest(
        user_row=user_row,
        item_rows=item_rows,
        segments=np.array(list(itertools.compress(segments, known)), dtype=np.int64),
        quotas=tuple(request.quotas or default_quotas(request.k, prompt_tuned=prompt_tuned)),
        merge=request.merge,
        excluded=excluded,
        never_generated=np.concatenate([modelled, deleted]) if len(deleted) else modelled,
        cold_start=ColdStart(
            shared_user=user_row == 0,
            num_unknown_items=len(rows) - len(item_rows),
            popular=not len(item_rows),
        ),
    )


def batch_tokens(requests: Sequence[EncodedRequest], *, max_history: int) -> Tokens:
    """Right-pads requests into one batch, each history cut to its newest ``max_history`` items."""
    lengths = [min(len(request.item_rows), max_history) for request in requests]
    return Tokens(
        user_rows=np.array([request.user_row for request in requests], dtype=np.int64),
        item_rows=pad_rows([request.item_rows[-max_history:] for request in requests]),
        segments=pad_rows([request.segments[-max_history:] for request in requests]),
        lengths=np.array(lengths, dtype=np.int64),
        excluded=pad_rows([request.never_generated for request in requests]),
    )


def pad_rows(rows: Sequence[Int64Array]) -> Int64Array:
    """Rows of N requests, of any number each, filled up with 0: (N, E) int64, E at least 1."""
    lengths = np.array([len(listed) for listed in rows], dtype=np.int64)
    padded = np.zeros((len(rows), max(1, lengths.max(initial=0))), dtype=np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return padded
