"""One hop by ``recall_J``: ids to rows and rows to ids here, everything between them in one graph.

Merges by quotas only, and knows no allowed sets and no items that were added after the export.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from recgpt.backends.base import ModelSpec
from recgpt.backends.tensors import NamedArrays, recall_feeds, recall_output
from recgpt.bundle import Bundle
from recgpt.errors import BundleError, RequestError
from recgpt.one_hop.plan import Call, Plan
from recgpt.recall.answers import Answer, candidates_of, popular_answer, recalled_answers
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import EncodedRequest, batch_tokens, check_feasible, encode_request
from recgpt.signature import MAX_RECALLED, recall_spec
from recgpt.types import Candidates, RecallRequest, Timings

_INSTEAD = "ask the model recall_engine (recall_by='engine'), or recall with an index here"


class GraphCodec:
    """Requests to the inputs of ``recall_J`` and its outputs to answers.

    Args:
        spec: sizes of the model.
        catalogue: ids and popularity, of the same export.
        recalls: the J for which there are graphs.
        max_recalled: the most items that they give.
        prompt_tuned: whether the model went through stage 2; decides the default quotas.
    """

    def __init__(
        self,
        spec: ModelSpec,
        catalogue: Catalogue,
        *,
        recalls: Sequence[int],
        max_recalled: int = MAX_RECALLED,
        prompt_tuned: bool,
    ) -> None:
        self._spec = spec
        self._catalogue = catalogue
        self._recalls = frozenset(recalls)
        self._max_recalled = max_recalled
        self._prompt_tuned = prompt_tuned

    @classmethod
    def of(cls, bundle: Bundle, catalogue: Catalogue | None = None) -> GraphCodec:
        """For the graphs of a bundle; with its catalogue, where that was read already.

        BundleError if items were added after the export, or it has no graphs that recall.
        """
        manifest = bundle.manifest
        if not manifest.recalls_in_graphs:
            raise BundleError(
                f"{manifest.num_added_items} items were added after the export, and it has {len(manifest.recalls)} "
                f"graphs that recall; expected none added and at least one graph: {_INSTEAD}"
            )
        return cls(
            manifest.model,
            bundle.catalogue() if catalogue is None else catalogue,
            recalls=manifest.recalls,
            max_recalled=manifest.max_recalled,
            prompt_tuned=manifest.training.is_prompt_tuned,
        )

    def plan(self, requests: Sequence[RecallRequest]) -> Plan:
        """See ``Codec.plan``; popular items are told without a call.

        Raises:
            ShortfallError: the catalogue cannot give a request's k items.
            RequestError: a merge, filter, number of steps or length that no graph offers.
        """
        started = time.perf_counter_ns()
        encoded = [self._encode(request) for request in requests]
        groups: dict[int, list[int]] = defaultdict(list)
        for place, request in enumerate(encoded):
            if not request.cold_start.popular:
                groups[len(request.quotas)].append(place)
        calls = [self._call([encoded[place] for place in places], places) for places in groups.values()]

        told = {
            place: popular_answer(request, self._catalogue)
            for place, request in enumerate(encoded)
            if request.cold_start.popular
        }

        def read(outputs: Sequence[NamedArrays | None], timings: Timings) -> dict[int, Candidates]:
            answers = dict(told)
            for call, arrays in zip(calls, outputs, strict=True):
                if arrays is not None:
                    answers.update(self._answers(call, [encoded[place] for place in call.places], arrays))
            return {place: candidates_of(answer, encoded[place], timings) for place, answer in answers.items()}

        return Plan(calls=calls, read=read, started_ns=started)

    def _encode(self, request: RecallRequest) -> EncodedRequest:
        encoded = encode_request(request, self._catalogue, prompt_tuned=self._prompt_tuned)
        num_items, window = self._catalogue.num_recallable, self._spec.max_length
        check_feasible(encoded, self._catalogue, num_items=num_items, window=window)
        if request.allowed is not None or (request.merge != "quotas" and not encoded.cold_start.popular):
            raise RequestError(f"merge = {request.merge!r}, or an allowed set: no graph offers these; {_INSTEAD}")
        if request.k > self._max_recalled and not encoded.cold_start.popular:
            raise RequestError(f"k = {request.k}: expected at most {self._max_recalled}, as exported; {_INSTEAD}")
        if len(encoded.quotas) not in self._recalls and not encoded.cold_start.popular:
            raise RequestError(
                f"{len(encoded.quotas)} quotas: expected one of {sorted(self._recalls)}, as exported; {_INSTEAD}"
            )
        return encoded

    def _call(self, group: list[EncodedRequest], places: list[int]) -> Call:
        num_interests = len(group[0].quotas)
        longest = self._spec.max_length - (num_interests - 1)
        tokens = batch_tokens(group, max_history=longest)
        quotas = np.array([request.quotas for request in group], dtype=np.int64)
        return Call(graph=recall_spec(num_interests), feeds=recall_feeds(tokens, quotas), places=tuple(places))

    def _answers(self, call: Call, group: list[EncodedRequest], arrays: NamedArrays) -> dict[int, Answer]:
        quotas = np.array([request.quotas for request in group], dtype=np.int64)
        answers = recalled_answers(self._catalogue, recall_output(arrays), quotas)
        return dict(zip(call.places, answers, strict=True))
