"""The degrade ladder of one hop: what is answered when the server fails. One interest -> popular items.

The rungs are those of ``recgpt.recall.ladder``. A server that recalls in one go leaves nothing half done behind, so the
first rung is always a request of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from recgpt.asking import Steps
from recgpt.backends.asks import TakeReserve
from recgpt.errors import ServerError
from recgpt.recall.answers import candidates_of, popular_answer
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import EncodedRequest, check_feasible, encode_request
from recgpt.types import FEWER_INTERESTS, POPULAR, Candidates, Degraded, RecallRequest, Timings

Ask = Callable[[Sequence[RecallRequest]], Steps[list[Candidates]]]
"""Asks the server once more; ServerError if it fails again."""

_NO_TIME = Timings(encode_ns=0, interests_ns=0, search_ns=0, merge_ns=0, total_ns=0)


class Ladder:
    """Answers requests whose call failed.

    Args:
        catalogue: ids and popularity, of the bundle that is served.
        prompt_tuned: whether the model went through stage 2; decides the default quotas.
        window: C, the model's positions.
        has_single: whether the server can be asked for one interest.
    """

    def __init__(self, catalogue: Catalogue, *, prompt_tuned: bool, window: int, has_single: bool) -> None:
        self._catalogue = catalogue
        self._prompt_tuned = prompt_tuned
        self._window = window
        self._has_single = has_single

    def answers(self, requests: Sequence[RecallRequest], error: ServerError, ask: Ask) -> Steps[list[Candidates]]:
        """One answer a request, in their order, without times; each says its rung.

        Requests of several interests are asked again with one alone, in the time that was kept back for it. If that
        fails too, and for all others, popular items.

        Args:
            requests: that were sent in one call.
            error: what failed.
            ask: sends requests.

        Raises:
            ShortfallError: there are fewer than k items for a request.
            QuotaError: more interests than the model can give.
        """
        encoded = [self._encode(request) for request in requests]
        reason = str(error)
        several = [place for place, one in enumerate(encoded) if len(one.quotas) > 1 and not one.cold_start.popular]
        found: dict[int, Candidates] = {}
        if several and self._has_single:
            yield from TakeReserve()
            try:
                alone = yield from ask([replace(requests[place], quotas=(requests[place].k,)) for place in several])
                degraded = Degraded(rung=FEWER_INTERESTS, reason=reason)
                found = {place: replace(one, degraded=degraded) for place, one in zip(several, alone, strict=True)}
            except ServerError as second:
                reason = str(second)
        return [
            found[place] if place in found else self._popular(request, reason) for place, request in enumerate(encoded)
        ]

    def _encode(self, request: RecallRequest) -> EncodedRequest:
        encoded = encode_request(request, self._catalogue, prompt_tuned=self._prompt_tuned)
        check_feasible(encoded, self._catalogue, num_items=self._catalogue.num_recallable, window=self._window)
        return encoded

    def _popular(self, request: EncodedRequest, reason: str) -> Candidates:
        # Who has no known history gets popular items from everybody; that is not less than was asked for.
        degraded = None if request.cold_start.popular else Degraded(rung=POPULAR, reason=reason)
        return candidates_of(popular_answer(request, self._catalogue, degraded), request, _NO_TIME)
