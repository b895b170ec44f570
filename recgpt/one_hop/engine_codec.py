"""One hop by ``recall_engine``, in the users' own ids: both ends of the wire, so that they cannot drift apart.

The caller needs nothing of the bundle but the types of its ids. An id of the other type, or beyond 64 bits, is in no
catalogue; it is dropped and counted before it is sent, as the engine does with unknown ids.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recgpt import signature
from recgpt.backends.tensors import NamedArrays
from recgpt.data.ids import IdMap
from recgpt.errors import BundleError, RequestError, ShortfallError
from recgpt.one_hop.plan import Call, Plan
from recgpt.one_hop.width import check_width
from recgpt.recall.catalogue import Catalogue
from recgpt.signature import INT64, STRING, recall_engine_spec
from recgpt.types import Candidates, ColdStart, RecallRequest, Timings

MODEL = "recall_engine"
MAX_ROWS = 256
"""Requests of one call; more are split."""

_LEAST, _MOST = -(2**63), 2**63 - 1
_Id = Any  # an int or a str, by the type of the catalogue


@dataclass(frozen=True)
class _Sent:
    """A request as it is sent, and how many ids of its history and its filters were not."""

    request: RecallRequest
    num_unsent: int
    num_unsent_filters: int


class EngineCodec:
    """Requests to named arrays and back, and answers to named arrays and back.

    Args:
        item_dtype: of item ids, ``int64`` or ``string``.
        user_dtype: of user ids, likewise.
        num_items: of the catalogue; None leaves it to the server to say how many ids of a filter are too many.
    """

    def __init__(self, *, item_dtype: str, user_dtype: str, num_items: int | None = None) -> None:
        self._items, self._users, self._num_items = item_dtype, user_dtype, num_items
        self._spec = recall_engine_spec(item_dtype, user_dtype)

    @classmethod
    def of(cls, catalogue: Catalogue) -> EngineCodec:
        """For a catalogue's types of ids; BundleError if they cannot cross the wire."""
        item_dtype, user_dtype = id_dtype(catalogue.item_ids), id_dtype(catalogue.user_ids)
        if item_dtype is None or user_dtype is None:
            raise BundleError("an id is a number beyond 64 bits; expected smaller ones, or strings")
        return cls(item_dtype=item_dtype, user_dtype=user_dtype, num_items=len(catalogue.item_ids))

    def plan(self, requests: Sequence[RecallRequest]) -> Plan:
        """See ``Codec.plan``; ShortfallError where nothing is allowed, RequestError where too much is to be sent."""
        started = time.perf_counter_ns()
        sent = [self._sendable(request) for request in requests]
        groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, one in enumerate(sent):
            groups[_given(one.request)].append(place)
        calls = [
            Call(graph=self._spec, feeds=self.feeds([sent[place].request for place in places]), places=tuple(places))
            for together in groups.values()
            for places in _chunks(together)
        ]

        def read(outputs: Sequence[NamedArrays | None], timings: Timings) -> dict[int, Candidates]:
            return {
                place: self._candidates(arrays, number, sent[place], timings)
                for call, arrays in zip(calls, outputs, strict=True)
                if arrays is not None
                for number, place in enumerate(call.places)
            }

        return Plan(calls=calls, read=read, started_ns=started)

    def feeds(self, requests: Sequence[RecallRequest]) -> NamedArrays:
        """Requests that give the same optional fields, of ids that can be sent, as inputs of the model.

        RequestError where one has more than may be sent.
        """
        for request in requests:
            for name, values in (
                (signature.HISTORY, request.history),
                (signature.QUOTAS, request.quotas or ()),
                (signature.BLOCKED, request.blocked),
                (signature.ALLOWED, request.allowed or ()),
            ):
                check_width(name, len(values), self._num_items)
        histories = [request.history for request in requests]
        feeds = {
            signature.HISTORY: _padded(histories, self._items),
            signature.LENGTHS: _column([len(history) for history in histories]),
            signature.K: _column([request.k for request in requests]),
        }
        given = _given(requests[0]) if requests else ()
        if signature.USER_ID in given:
            feeds[signature.USER_ID] = _padded([[request.user_id] for request in requests], self._users)
        if signature.SEGMENT_IDS in given:
            feeds[signature.SEGMENT_IDS] = _padded([request.segments or () for request in requests], INT64)
        if signature.QUOTAS in given:
            feeds[signature.QUOTAS] = _padded([request.quotas or () for request in requests], INT64)
        if signature.MERGE in given:
            feeds[signature.MERGE] = _padded([[request.merge] for request in requests], STRING)
        if signature.FILTER_SEEN in given:
            feeds[signature.FILTER_SEEN] = np.array([[request.filter_seen] for request in requests])
        for name, sets in (
            (signature.BLOCKED, [request.blocked for request in requests]),
            (signature.ALLOWED, [request.allowed or () for request in requests]),
        ):
            if name in given:
                feeds[name] = _padded_again([list(ids) for ids in sets], self._items)
        return feeds

    def requests(self, feeds: Mapping[str, NDArray[Any]]) -> list[RecallRequest]:
        """The inverse of ``feeds``; RequestError where an array is missing, too wide, or of another shape or type."""
        arrays = self._checked(feeds)
        lengths = arrays[signature.LENGTHS][:, 0].tolist()
        width = arrays[signature.HISTORY].shape[1]
        if lengths and not 0 <= min(lengths) <= max(lengths) <= width:
            raise RequestError(f"lengths {min(lengths)}..{max(lengths)}: expected 0..{width}, the history's width")
        lists = {name: _listed(array) for name, array in arrays.items()}
        return [self._request(lists, row, length) for row, length in enumerate(lengths)]

    def arrays(self, answers: Sequence[Candidates]) -> NamedArrays:
        """Answers as outputs of the model."""
        facts = [
            [
                len(answer.generated_ids),
                answer.cold_start.num_unknown_items,
                answer.num_unknown_filters,
                answer.cold_start.shared_user,
                answer.cold_start.popular,
            ]
            for answer in answers
        ]
        scores = np.zeros((len(answers), max((len(answer) for answer in answers), default=1)), dtype=np.float32)
        for row, answer in enumerate(answers):
            scores[row, : len(answer)] = answer.scores
        return {
            signature.ITEM_IDS: _padded([answer.item_ids for answer in answers], self._items),
            signature.SCORES: scores,
            signature.STEPS: _padded([answer.steps.tolist() for answer in answers], INT64),
            signature.GENERATED_IDS: _padded([answer.generated_ids for answer in answers], self._items),
            signature.FACTS: np.array(facts, dtype=np.int64).reshape(len(answers), 5),
        }

    def _candidates(self, arrays: NamedArrays, row: int, sent: _Sent, timings: Timings) -> Candidates:
        k = sent.request.k
        num_generated, num_unknown, num_filters, shared, popular = arrays[signature.FACTS][row].tolist()
        return Candidates(
            item_ids=tuple(_listed(arrays[signature.ITEM_IDS][row, :k])),
            scores=arrays[signature.SCORES][row, :k],
            steps=arrays[signature.STEPS][row, :k],
            generated_ids=tuple(_listed(arrays[signature.GENERATED_IDS][row, :num_generated])),
            cold_start=ColdStart(
                shared_user=bool(shared), num_unknown_items=num_unknown + sent.num_unsent, popular=bool(popular)
            ),
            timings=timings,
            num_unknown_filters=num_filters + sent.num_unsent_filters,
        )

    def _sendable(self, request: RecallRequest) -> _Sent:
        users = () if request.user_id is None else (request.user_id,)
        items = (request.history, request.blocked, request.allowed or ())
        is_any_allowed = request.allowed is None or len(request.allowed) > 0
        if is_any_allowed and _all_fit(users, self._users) and all(_all_fit(ids, self._items) for ids in items):
            return _Sent(request, 0, 0)
        keep = [place for place, item in enumerate(request.history) if _fits(item, self._items)]
        blocked = {item for item in request.blocked if _fits(item, self._items)}
        allowed = None
        if request.allowed is not None:
            allowed = {item for item in request.allowed if _fits(item, self._items)}
            if not allowed:
                raise ShortfallError(
                    f"k = {request.k}, but no item of the catalogue is allowed; allow at least k",
                    requested=request.k,
                    available=0,
                )
        num_filters = len(request.blocked) + len(request.allowed or ())
        clean = dataclasses.replace(
            request,
            history=[request.history[place] for place in keep],
            segments=None if request.segments is None else [request.segments[place] for place in keep],
            user_id=request.user_id if _fits(request.user_id, self._users) else None,
            blocked=blocked,
            allowed=allowed,
        )
        return _Sent(clean, len(request.history) - len(keep), num_filters - len(blocked) - len(allowed or ()))

    def _request(self, lists: Mapping[str, list[list[_Id]]], row: int, length: int) -> RecallRequest:
        segments, quotas = lists.get(signature.SEGMENT_IDS), lists.get(signature.QUOTAS)
        return RecallRequest(
            history=lists[signature.HISTORY][row][:length],
            k=lists[signature.K][row][0],
            user_id=lists[signature.USER_ID][row][0] if signature.USER_ID in lists else None,
            segments=segments[row][:length] if segments is not None else None,
            quotas=_without_zeros(quotas[row]) if quotas is not None else None,
            merge=lists[signature.MERGE][row][0] if signature.MERGE in lists else "quotas",
            filter_seen=lists[signature.FILTER_SEEN][row][0] if signature.FILTER_SEEN in lists else True,
            blocked=lists[signature.BLOCKED][row] if signature.BLOCKED in lists else (),
            allowed=lists[signature.ALLOWED][row] if signature.ALLOWED in lists else None,
        )

    def _checked(self, feeds: Mapping[str, NDArray[Any]]) -> NamedArrays:
        missing = [tensor.name for tensor in self._spec.inputs if not tensor.optional and tensor.name not in feeds]
        if missing:
            raise RequestError(f"inputs {missing} are missing")
        batch = len(feeds[signature.HISTORY])
        arrays = {}
        for tensor in self._spec.inputs:
            array = feeds.get(tensor.name)
            if array is None:
                continue
            kind = "O" if tensor.dtype == STRING else np.dtype(tensor.dtype).char
            width = tensor.axes[1]
            is_matrix = array.ndim == 2 and len(array) == batch and array.dtype.char == kind
            if not is_matrix or (isinstance(width, int) and array.shape[1] != width):
                raise RequestError(
                    f"{tensor.name} is {array.dtype} of shape {array.shape}; expected {tensor.dtype} ({batch}, {width})"
                )
            check_width(tensor.name, array.shape[1], self._num_items)
            arrays[tensor.name] = array
        return arrays


def id_dtype(ids: IdMap) -> str | None:
    """The type on the wire of a catalogue's ids; None if there is none: whole numbers beyond 64 bits."""
    if ids.ids and isinstance(ids.ids[0], str):
        return STRING
    return INT64 if _all_fit(ids.ids, INT64) else None


def _given(request: RecallRequest) -> tuple[str, ...]:
    """The optional inputs that a request needs."""
    needed = {
        signature.USER_ID: request.user_id is not None,
        signature.SEGMENT_IDS: request.segments is not None,
        signature.QUOTAS: request.quotas is not None,
        signature.MERGE: request.merge != "quotas",
        signature.FILTER_SEEN: not request.filter_seen,
        signature.BLOCKED: bool(request.blocked),
        signature.ALLOWED: request.allowed is not None,
    }
    return tuple(name for name, is_needed in needed.items() if is_needed)


def _all_fit(values: Collection[_Id], dtype: str) -> bool:
    """Whether all of a request's ids can be sent; asked for all of them at once, which is far cheaper."""
    kinds = {*map(type, values)}
    if dtype == STRING:
        return kinds <= {str}
    return not kinds or (kinds == {int} and min(values) >= _LEAST and max(values) <= _MOST)


def _fits(value: _Id, dtype: str) -> bool:
    return _all_fit((value,), dtype)


def _padded(lists: Sequence[Sequence[_Id]], dtype: str) -> NDArray[Any]:
    """Rows of ids or numbers, (B, widest but at least 1), filled up with 0 or the empty string."""
    width = max((len(row) for row in lists), default=0) or 1
    if dtype == STRING:
        filled: NDArray[Any] = np.full((len(lists), width), b"", dtype=object)
        for number, row in enumerate(lists):
            filled[number, : len(row)] = [text.encode() for text in row]
        return filled
    array = np.zeros((len(lists), width), dtype=np.int64)
    for number, row in enumerate(lists):
        array[number, : len(row)] = row
    return array


def _padded_again(lists: Sequence[list[_Id]], dtype: str) -> NDArray[Any]:
    """Rows of ids, none of them empty, filled up with their own first."""
    width = max(map(len, lists))
    return _padded([row + row[:1] * (width - len(row)) for row in lists], dtype)


def _column(values: Iterable[int]) -> NDArray[np.int64]:
    return np.array(list(values), dtype=np.int64).reshape(-1, 1)


def _listed(array: NDArray[Any]) -> list[Any]:
    """Nested lists of an array; strings decoded, RequestError if they are no UTF-8."""
    values: list[Any] = array.tolist()
    if array.dtype != np.dtype(object):
        return values
    try:
        return [[_text(one) for one in row] for row in values] if array.ndim == 2 else [_text(one) for one in values]
    except UnicodeDecodeError as error:
        raise RequestError(f"an id is no UTF-8: {error}") from error


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _without_zeros(quotas: list[int]) -> list[int]:
    """Quotas without what they were filled up with; zeros between numbers stay, to be refused."""
    while quotas and quotas[-1] == 0:
        quotas = quotas[:-1]
    return quotas


def _chunks(places: list[int]) -> list[list[int]]:
    return [places[start : start + MAX_ROWS] for start in range(0, len(places), MAX_ROWS)]
