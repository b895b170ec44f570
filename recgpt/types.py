"""What goes into a recall and what comes out of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recgpt.errors import QuotaError, RequestError

ItemId = int | str
UserId = int | str

Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]

BEHAVIOUR = 0
PROMPT = 1

FEWER_INTERESTS: Literal["fewer_interests"] = "fewer_interests"
POPULAR: Literal["popular"] = "popular"

MERGES = ("quotas", "probability", "reciprocal_rank")
"""How several interests' lists may become one: ``RecallRequest.merge``."""
# Item rows and segments, both (T,) int64, oldest first.
PromptedHistory = tuple[Int64Array, Int64Array]


@dataclass(frozen=True, kw_only=True)
class RecallRequest:
    """One user's request, in the user's own ids.

    Attributes:
        history: item ids, oldest first; empty or wholly unknown is allowed and gets popular items.
        user_id: None, or an id the model was not trained on, means the shared user vector.
        segments: one entry a history item, 0 = behaviour, 1 = prompt (generated, or shown and not clicked);
            None = all 0.
        k: how many items to recall.
        quotas: items to take from each interest, in step order; positive, summing to k. None = the bundle's default.
        merge: how the interests' lists become one. ``quotas`` takes those numbers of items, step by step;
            ``probability`` and ``reciprocal_rank`` rank the union of the lists, each interest weighing its quota's
            share of k.
        filter_seen: never return a behaviour of the history; an item that is only a prompt there stays a candidate.
        blocked: item ids never to return or to generate; order and repeats mean nothing.
        allowed: None, or the only item ids that may be returned. It is about what is shown: what is generated between
            the steps, and not shown, may be any item that is not blocked. An id that is blocked, or seen, as well as
            allowed is not returned.

    Raises:
        RequestError: a field has the wrong type, shape or range.
        QuotaError: the quotas do not fit k.
    """

    history: Sequence[ItemId]
    user_id: UserId | None = None
    segments: Sequence[int] | None = None
    k: int = 10
    quotas: Sequence[int] | None = None
    merge: str = "quotas"
    filter_seen: bool = True
    blocked: Collection[ItemId] = ()
    allowed: Collection[ItemId] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "history", _history_tuple(self.history))
        if self.user_id is not None:
            object.__setattr__(self, "user_id", _plain_id(self.user_id, "user_id"))
        if not _is_whole(self.k) or self.k < 1:
            raise RequestError(f"k = {self.k!r}: expected a whole number of at least 1")
        object.__setattr__(self, "k", int(self.k))
        if self.segments is not None:
            object.__setattr__(self, "segments", _segments_tuple(self.segments, len(self.history)))
        if self.quotas is not None:
            object.__setattr__(self, "quotas", check_quotas(self.quotas, self.k))
        if self.merge not in MERGES:
            raise RequestError(f"merge = {self.merge!r}: expected one of {', '.join(MERGES)}")
        object.__setattr__(self, "blocked", _id_set(self.blocked, "blocked"))
        if self.allowed is not None:
            object.__setattr__(self, "allowed", _id_set(self.allowed, "allowed"))


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Which cold-start rules an answer is owed to.

    Attributes:
        shared_user: the user was not given or is unknown, so the shared user vector was used.
        num_unknown_items: history items that are not in the catalogue and were dropped.
        popular: nothing of the history was left, so the items are the most popular unseen ones.
    """

    shared_user: bool
    num_unknown_items: int
    popular: bool


@dataclass(frozen=True, kw_only=True)
class Degraded:
    """That an answer is less than was asked for: a server failed, and the caller prefers less to an error.

    Attributes:
        rung: ``fewer_interests``: from the first interests alone, and the first one's quota took over the missing
            ones'; ``popular``: the most popular items that the user has not seen.
        reason: what failed.
    """

    rung: Literal["fewer_interests", "popular"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where the time of one call went, in nanoseconds; the requests of one ``recall_many`` have the same.

    Where an engine shares a call out to threads: of that thread's part, its waiting for others included.

    Attributes:
        encode_ns: ids to rows, padding.
        interests_ns: the model; over gRPC this includes the network and the server's queue.
        search_ns: the item index.
        merge_ns: the lists become one, without seen items; rows back to ids.
        total_ns: the whole call.
    """

    encode_ns: int
    interests_ns: int
    search_ns: int
    merge_ns: int
    total_ns: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The recalled items of one request: best first, by quotas within each step.

    Attributes:
        item_ids: k distinct item ids.
        scores: (k,) float32. By quotas, inner product of the step's interest with the item's vector; by probability and
            reciprocal rank, the weighted sum that ranks the list; for popular items, how often the item occurs in the
            training data.
        steps: (k,) int64, the step (1..J) whose interest found the item, or contributed most to its weighted sum, the
            first such; 0 for popular items.
        generated_ids: the items generated between the steps, J - 1 of them.
        cold_start: which cold-start rules applied.
        degraded: None, or the rung of the degrade ladder that the answer is from.
        timings: of the call that the request was part of.
        num_unknown_filters: ids of ``blocked`` and ``allowed`` that are not in the catalogue and were dropped.
    """

    item_ids: tuple[ItemId, ...]
    scores: Float32Array
    steps: Int64Array
    generated_ids: tuple[ItemId, ...] = ()
    cold_start: ColdStart
    degraded: Degraded | None = None
    timings: Timings = field(repr=False)
    num_unknown_filters: int = 0

    def __len__(self) -> int:
        return len(self.item_ids)


def checked_request(request: object) -> RecallRequest:
    """The same; RequestError if it is something else."""
    if not isinstance(request, RecallRequest):
        raise RequestError(f"expected a RecallRequest, got {request!r}")
    return request


def check_quotas(quotas: Sequence[int], k: int) -> tuple[int, ...]:
    """Returns the quotas as a tuple; QuotaError unless they are positive whole numbers that sum to k."""
    values = _as_tuple(quotas)
    if not values:
        raise QuotaError(f"quotas = {quotas!r}: expected one positive whole number an interest, such as ({k},)")
    if not all(_is_whole(quota) and quota >= 1 for quota in values):
        raise QuotaError(f"quotas = {values!r}: expected positive whole numbers")
    if sum(values) != k:
        raise QuotaError(f"quotas = {values!r} sum to {sum(values)}; expected k = {k}")
    return tuple(int(quota) for quota in values)


def _history_tuple(history: Any) -> tuple[ItemId, ...]:
    if isinstance(history, np.ndarray) and history.ndim != 1:
        raise RequestError(f"history has shape {history.shape}; expected one dimension: item ids, oldest first")
    values = _as_tuple(history)
    if values is None:
        raise RequestError(f"history is a {type(history).__name__}; expected a sequence of item ids, oldest first")
    if _are_plain(values):
        return values
    return tuple(_plain_id(item, f"history[{position}]") for position, item in enumerate(values))


def _id_set(ids: Any, what: str) -> frozenset[ItemId]:
    values = ids if isinstance(ids, set | frozenset) else _as_tuple(ids)
    if values is None:
        raise RequestError(f"{what} is a {type(ids).__name__}; expected a set or a sequence of item ids")
    if _are_plain(values):
        return frozenset(values)
    return frozenset(_plain_id(item, f"an id of {what}") for item in values)


def _are_plain(values: Collection[Any]) -> bool:
    """Whether all are int or str themselves, as nearly always: to ask for their types at once is far cheaper."""
    return {*map(type, values)} <= {int, str}


def _plain_id(value: Any, what: str) -> ItemId:
    if isinstance(value, str):
        return str(value)
    if _is_whole(value):
        return int(value)
    raise RequestError(
        f"{what} = {value!r} is a {type(value).__name__}; expected an int or a str, as in the training data"
    )


def _segments_tuple(segments: Any, length: int) -> tuple[int, ...]:
    values = _as_tuple(segments)
    if values is None or len(values) != length:
        raise RequestError(f"segments = {segments!r}: expected {length} values, one a history item")
    if not all(_is_whole(value) and value in (BEHAVIOUR, PROMPT) for value in values):
        raise RequestError(f"segments = {segments!r}: expected 0 (behaviour) or 1 (prompt) for each history item")
    return tuple(int(value) for value in values)


def _as_tuple(values: Any) -> tuple[Any, ...] | None:
    """The entries of a sequence or of an array of one dimension; None for anything else, a string included."""
    if isinstance(values, np.ndarray):
        return tuple(values.tolist()) if values.ndim == 1 else None
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str | bytes) else None


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
