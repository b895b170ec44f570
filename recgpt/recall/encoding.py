"""From requests in the users' own ids to token rows; the cold-start rules are decided here."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recgpt.backends.base import Tokens
from recgpt.data.ids import UNKNOWN_ROW
from recgpt.errors import QuotaError, ShortfallError
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.merge import default_quotas
from recgpt.recall.padded import pad_rows
from recgpt.types import BEHAVIOUR, ColdStart, Int64Array, RecallRequest


class EncodedRequest(NamedTuple):
    """One request in rows.

    Attributes:
        user_row: 0 = the shared user.
        item_rows: the n items of the whole history that the model knows, oldest first.
        segments: n of them, or none where all are behaviours.
        k: how many items are asked for.
        quotas: as asked for, or the default; they sum to k.
        merge: one of MERGES.
        excluded: distinct rows never to be returned, without those that nobody is ever returned.
        allowed: None, or the only rows that may be returned: (A,) int64, ascending, distinct, none excluded or deleted.
        never_generated: distinct rows never to be fed back: all of the model's that are not returned.
        cold_start: the rules that apply.
        num_unknown_filters: filtered ids that are not in the catalogue.
    """

    user_row: int
    item_rows: list[int]
    segments: Sequence[int]
    k: int
    quotas: tuple[int, ...]
    merge: str
    excluded: frozenset[int]
    allowed: Int64Array | None
    never_generated: list[int]
    cold_start: ColdStart
    num_unknown_filters: int


def encode_request(request: RecallRequest, catalogue: Catalogue, *, prompt_tuned: bool) -> EncodedRequest:
    """Looks up a request's ids: unknown items are dropped and counted, an unknown user becomes the shared one."""
    user_row = 0 if request.user_id is None else catalogue.user_ids.row(request.user_id)
    # Plain lists: histories are short, and each operation of numpy costs more than a few numbers do.
    rows = item_rows = catalogue.item_ids.row_list(request.history)
    segments: Sequence[int] = request.segments or ()
    # A prompt was offered, not taken: it may be just what the user wants next.
    seen = _behaviours(rows, segments) if segments else rows
    if UNKNOWN_ROW in rows or catalogue.num_added:
        known = [0 < row <= catalogue.num_modelled for row in rows]
        item_rows, segments = list(itertools.compress(rows, known)), tuple(itertools.compress(segments, known))
    blocked = catalogue.item_ids.row_list(request.blocked) if request.blocked else []
    # Distinct: a history may be long and hold few items, and what it excludes is padded for a whole batch.
    excluded = frozenset(seen + blocked if request.filter_seen else blocked)
    if UNKNOWN_ROW in excluded or catalogue.deleted:
        excluded -= catalogue.never_found
    modelled = [row for row in excluded if row <= catalogue.num_modelled] if catalogue.num_added else list(excluded)
    allowed, num_unknown = _allowed_rows(request, catalogue, excluded)
    # By position: names cost as much again as the object.
    return EncodedRequest(
        user_row,
        item_rows,
        segments,
        request.k,
        tuple(request.quotas or default_quotas(request.k, prompt_tuned=prompt_tuned)),
        request.merge,
        excluded,
        allowed,
        modelled + catalogue.never_generated,
        _cold_start(user_row == 0, len(rows) - len(item_rows), not item_rows),
        num_unknown + blocked.count(UNKNOWN_ROW),
    )


def _behaviours(rows: Sequence[int], segments: Sequence[int]) -> list[int]:
    return [row for row, segment in zip(rows, segments, strict=True) if segment == BEHAVIOUR]


@functools.lru_cache
def _cold_start(shared_user: bool, num_unknown_items: int, popular: bool) -> ColdStart:
    """Nearly all requests have the same few; making one takes longer than looking it up."""
    return ColdStart(shared_user=shared_user, num_unknown_items=num_unknown_items, popular=popular)


def _allowed_rows(
    request: RecallRequest, catalogue: Catalogue, excluded: frozenset[int]
) -> tuple[Int64Array | None, int]:
    """The rows of ``EncodedRequest.allowed``, and how many allowed ids are unknown."""
    if request.allowed is None:
        return None, 0
    rows = np.unique(np.array(catalogue.item_ids.row_list(request.allowed), dtype=np.int64))
    num_known = int((rows != UNKNOWN_ROW).sum())
    barred = [UNKNOWN_ROW, *excluded, *catalogue.deleted]
    return rows[~np.isin(rows, barred)], len(request.allowed) - num_known


def check_feasible(request: EncodedRequest, catalogue: Catalogue, *, num_items: int, window: int) -> None:
    """Refuses a request that cannot be answered.

    Args:
        request: what was encoded.
        catalogue: of the model.
        num_items: how many items can be recalled at all.
        window: C, the model's positions.

    Raises:
        ShortfallError: there are fewer than k items for the request.
        QuotaError: more interests than positions, or than items to generate.
    """
    _check_shortfall(request, num_items)
    num_interests = len(request.quotas)
    if num_interests > window:
        raise QuotaError(f"{num_interests} quotas: expected at most {window}, the positions of the context window")
    generable = catalogue.num_modelled - len(request.never_generated)
    if num_interests - 1 > generable:
        raise QuotaError(f"{num_interests} quotas: expected at most {generable + 1}, one more than can be generated")


def batch_tokens(requests: Sequence[EncodedRequest], *, max_history: int) -> Tokens:
    """Right-pads requests into one batch, each history cut to its newest ``max_history`` items."""
    histories = [request.item_rows[-max_history:] for request in requests]
    item_rows = pad_rows(histories)
    segments = np.full_like(item_rows, BEHAVIOUR)
    for place, request in enumerate(requests):
        if request.segments:
            segments[place, : len(histories[place])] = request.segments[-max_history:]
    return Tokens(
        user_rows=np.array([request.user_row for request in requests], dtype=np.int64),
        item_rows=item_rows,
        segments=segments,
        lengths=np.array([len(history) for history in histories], dtype=np.int64),
        excluded=pad_rows([request.never_generated for request in requests]),
    )


def _check_shortfall(request: EncodedRequest, num_items: int) -> None:
    """ShortfallError unless a catalogue that can give ``num_items`` items has enough for the request."""
    k, num_excluded = request.k, len(request.excluded)
    available = num_items - num_excluded if request.allowed is None else len(request.allowed)
    if k > available:
        reason = (
            f"{num_excluded} are in the history or blocked"
            if request.allowed is None
            else "the allowed ones, without those in the history or blocked"
        )
        raise ShortfallError(
            f"k = {k}, but only {available} of the catalogue's {num_items} items can be recalled ({reason}); ask for "
            f"at most {available}",
            requested=k,
            available=available,
        )
