"""Multi-interest recall: the one algorithm above every backend, without anybody who answers its questions.

requests -> rows -> interests (model) -> one batched search (item index) -> merge -> candidates
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from recgpt.asking import Steps
from recgpt.backends.asks import Search
from recgpt.backends.base import InterestsOutput, Model
from recgpt.errors import BundleMismatchError, RequestError
from recgpt.recall.answers import Answer, answer_of, popular_answer
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.clock import Clock
from recgpt.recall.encoding import EncodedRequest, batch_tokens, check_feasible, encode_request, pad_rows
from recgpt.recall.index import ItemIndex
from recgpt.recall.ladder import fewer_quotas, reach
from recgpt.recall.layout import Layout
from recgpt.recall.loop import search_in_loop
from recgpt.recall.merge import MERGE_FUNCTIONS, num_to_search
from recgpt.types import Candidates, Float32Array, Int64Array, RecallRequest

# Searches up to about this deep cost much the same.
_MIN_DEPTH = 64

# A request that excludes more than this is searched by itself, among what it leaves. To look past more costs more.
_MAX_SKIPPED = 512

# Rows and scores of the steps' lists of one request, both (J, N), best first.
_Lists = tuple[Int64Array, Float32Array]


class PretrainedOnlyWarning(UserWarning):
    """Several steps were asked of a model that was not prompt-tuned; the paper's Variant_1 shows that this hurts."""


class RecallCore:
    """What the blocking and the awaiting faces share.

    Args:
        model: sizes of the model, and its fused graphs.
        index: finds items for interests; of the same export as the model.
        catalogue: ids and popularity; of the same export as the model.
        prompt_tuned: whether the model went through stage 2; decides the default quotas.
        layout: where the items that are fed back come from.

    Raises:
        BundleMismatchError: model, index and catalogue are of different sizes.
    """

    def __init__(
        self,
        model: Model,
        index: ItemIndex,
        catalogue: Catalogue,
        *,
        prompt_tuned: bool,
        layout: Layout = Layout.FUSED,
    ) -> None:
        spec = model.spec
        expected = (spec.num_items, spec.hidden_size, spec.num_users)
        found = (catalogue.num_modelled, index.size, len(catalogue.user_ids))
        if found != expected or index.num_items != catalogue.num_recallable:
            raise BundleMismatchError(
                f"the model has {spec.num_items} items of width {spec.hidden_size} and {spec.num_users} users, the "
                f"index {index.num_items} items of width {index.size}, the id maps {len(catalogue.item_ids)} items and "
                f"{len(catalogue.user_ids)} users; expected all from one export: run export/to_onnx.py again"
            )
        self._model = model
        self._index = index
        self._catalogue = catalogue
        self._prompt_tuned = prompt_tuned
        self._layout = layout

    @property
    def index(self) -> ItemIndex:
        """Finds items for interests."""
        return self._index

    @property
    def catalogue(self) -> Catalogue:
        """Ids and popularity."""
        return self._catalogue

    @property
    def prompt_tuned(self) -> bool:
        """Whether the model went through stage 2."""
        return self._prompt_tuned

    def steps(self, requests: Iterable[RecallRequest], *, degrade: bool = False) -> Steps[list[Candidates]]:
        """``Recaller.recall_many`` as an algorithm that asks for runs of the model and for searches.

        Args:
            requests: any mix of k, quotas, merges and history lengths.
            degrade: answer with less if a server fails, and say so in the answer.
        """
        clock = Clock()
        encoded = [self._encode(request) for request in requests]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, request in enumerate(encoded):
            groups[_group(request)].append(position)
        if not self.prompt_tuned and any(num_interests > 1 for num_interests, _ in groups):
            warnings.warn(
                "several interests asked of a model that was only pre-trained; prompt-tune it, or use one quota",
                PretrainedOnlyWarning,
                stacklevel=4,  # whoever called the face that drives this
            )
        clock.lap("encode")
        answers: dict[int, Answer] = {}
        for (num_interests, _), positions in groups.items():
            group = [encoded[position] for position in positions]
            if num_interests:
                found = yield from self._recall_group(group, num_interests, clock, degrade=degrade)
            else:
                found = [popular_answer(request, self.catalogue) for request in group]
            answers.update(zip(positions, found, strict=True))
            clock.lap("merge")
        timings = clock.timings()
        return [
            Candidates(
                **answers[position],
                cold_start=request.cold_start,
                timings=timings,
                num_unknown_filters=request.num_unknown_filters,
            )
            for position, request in enumerate(encoded)
        ]

    def _encode(self, request: RecallRequest) -> EncodedRequest:
        if not isinstance(request, RecallRequest):
            raise RequestError(f"expected a RecallRequest, got {request!r}")
        encoded = encode_request(request, self.catalogue, prompt_tuned=self.prompt_tuned)
        window = self._model.spec.max_length
        check_feasible(encoded, self.catalogue, num_items=self.index.num_items, window=window)
        return encoded

    def _recall_group(
        self, group: list[EncodedRequest], num_interests: int, clock: Clock, *, degrade: bool
    ) -> Steps[list[Answer]]:
        tokens = batch_tokens(group, max_history=self._model.spec.max_length - (num_interests - 1))
        clock.lap("encode")
        if self._searches_in_loop(group):
            output, rows, scores = yield from search_in_loop(
                self._model,
                self.index,
                tokens,
                num_interests,
                depth=_depth(group),
                excluded=_excluded(group),
                lap=clock.lap,
            )
            lists: dict[int, _Lists] = {place: (rows[place], scores[place]) for place in range(len(group))}
            degraded = None
        else:
            reached = yield from reach(self._model.fused, tokens, num_interests, degrade=degrade)
            clock.lap("interests")
            if reached.output is None:
                return [popular_answer(request, self.catalogue, reached.degraded) for request in group]
            output, degraded = reached.output, reached.degraded
            lists = yield from self._search(group, output)
            clock.lap("search")
        answers = []
        for position, request in enumerate(group):
            quotas = fewer_quotas(request.quotas, output.interests.shape[1])
            merged = MERGE_FUNCTIONS[request.merge](*lists[position], quotas, request.excluded)
            answers.append(answer_of(self.catalogue, *merged, output.generated_rows[position], degraded))
        return answers

    def _searches_in_loop(self, group: list[EncodedRequest]) -> bool:
        """Searches that are confined to some rows are a matter of each request, so they follow all interests."""
        in_loop = self._layout.searches_in_loop(self.index.num_items, len(group), is_exact=self.index.is_exact)
        return in_loop and all(self._among(request) is None for request in group)

    def _search(self, group: list[EncodedRequest], output: InterestsOutput) -> Steps[dict[int, _Lists]]:
        """The lists of each request, by its place: those without filters in one search, the others one by one."""
        found: dict[int, _Lists] = {}
        together = []
        for place, request in enumerate(group):
            among = self._among(request)
            if among is None:
                together.append(place)
            else:
                found[place] = yield from Search(output.interests[place], _depth([request]), among)
        if together:
            requests = [group[place] for place in together]
            queries = output.interests[together]
            excluded = np.repeat(_excluded(requests), queries.shape[1], axis=0)
            rows, scores = yield from Search(queries.reshape(-1, queries.shape[2]), _depth(requests), excluded=excluded)
            shape = (*queries.shape[:2], -1)
            found.update(zip(together, zip(rows.reshape(shape), scores.reshape(shape), strict=True), strict=True))
        return found

    def _among(self, request: EncodedRequest) -> Int64Array | None:
        """The rows that a request's search has to be confined to; None if it may look at all."""
        if request.allowed is not None or len(request.excluded) <= _MAX_SKIPPED:
            return request.allowed
        return np.setdiff1d(self.index.rows, list(request.excluded), assume_unique=True)


def _group(request: EncodedRequest) -> tuple[int, int]:
    """What requests share that are computed together: number of interests, 0 for popular items, and depth of search.

    So one user with a very long history, whose items an index may have to look up, does not slow the search of others.
    """
    if request.cold_start.popular:
        return 0, 0
    depth = _depth([request]) + len(request.excluded)
    return len(request.quotas), max(depth, _MIN_DEPTH).bit_length()


def _depth(requests: Iterable[EncodedRequest]) -> int:
    """How many items that are not excluded each step has to look up."""
    return max(num_to_search(request.quotas, merge=request.merge) for request in requests)


def _excluded(requests: Iterable[EncodedRequest]) -> Int64Array:
    return pad_rows([np.fromiter(request.excluded, dtype=np.int64) for request in requests])
