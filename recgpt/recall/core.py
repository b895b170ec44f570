"""Multi-interest recall: the one algorithm above every backend, without anybody who answers its questions.

requests -> rows -> interests (model) -> one batched search (item index) -> merge -> candidates
"""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from recgpt.asking import Steps
from recgpt.backends.asks import Recall, Search
from recgpt.backends.base import InterestsOutput, Model, Tokens
from recgpt.errors import BundleMismatchError
from recgpt.recall.answers import Answer, answers_of, candidates_of, popular_answer, recalled_answers
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.clock import Clock
from recgpt.recall.encoding import EncodedRequest, batch_tokens, check_feasible, encode_request
from recgpt.recall.index import ItemIndex
from recgpt.recall.ladder import fewer_quotas, reach
from recgpt.recall.layout import Layout
from recgpt.recall.loop import search_in_loop
from recgpt.recall.merge import MERGE_FUNCTIONS, num_to_search
from recgpt.recall.padded import pad_rows
from recgpt.types import Candidates, Float32Array, Int64Array, RecallRequest, checked_request

# Searches up to about this deep cost much the same.
_MIN_DEPTH = 255

# A request that excludes more than this is searched by itself, among what it leaves. To look past more costs more.
_MAX_SKIPPED = 512

# Rows and scores of the steps' lists of B requests, both (B, J, N), best first; -inf for what is no candidate.
_Lists = tuple[Int64Array, Float32Array]


class PretrainedOnlyWarning(UserWarning):
    """Several steps were asked of a model that was not prompt-tuned; the paper's Variant_1 shows that this hurts."""


class SeveralSteps:
    """Warns once that a model that was only pre-trained is asked for several interests."""

    def __init__(self, *, prompt_tuned: bool) -> None:
        self._is_to_warn = not prompt_tuned

    def asked(self, numbers: Iterable[int], *, stacklevel: int) -> None:
        """Told the numbers of interests that are asked for; ``stacklevel`` as of ``warnings.warn``."""
        if self._is_to_warn and any(number > 1 for number in numbers):
            self._is_to_warn = False
            warnings.warn(
                "several interests asked of a model that was only pre-trained; prompt-tune it, or use one quota",
                PretrainedOnlyWarning,
                stacklevel=stacklevel,
            )


class RecallCore:
    """What the blocking and the awaiting faces share.

    Args:
        model: sizes of the model, and its fused graphs.
        index: finds items for interests; of the same export as the model.
        catalogue: ids and popularity; of the same export as the model.
        prompt_tuned: whether the model went through stage 2; decides the default quotas.
        layout: who looks through the catalogue.
        recalls: the J for which the driver answers ``Recall``, and how many items it gives at most.
        scans: the J for which it answers batches by a scan, and how long their lists may be for it.

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
        recalls: Mapping[int, int] = MappingProxyType({}),
        scans: Mapping[int, int] = MappingProxyType({}),
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
        self._several_steps = SeveralSteps(prompt_tuned=prompt_tuned)
        self._layout = layout
        # Such a graph knows neither items that were added after the export nor an index that misses some.
        self._recalls = recalls if index.is_exact and not catalogue.num_added else {}
        self._scans = scans

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
        encoded = self._encoded(requests)
        groups: dict[_Group, list[int]] = defaultdict(list)
        for position, request in enumerate(encoded):
            groups[_Group.of(request)].append(position)
        # The level is that of whoever called the face that drives this.
        self._several_steps.asked((group.num_interests for group in groups), stacklevel=5)
        clock.lap("encode")
        answers: dict[int, Answer] = {}
        for group, positions in groups.items():
            members = [encoded[position] for position in positions]
            if group.num_interests:
                found = yield from self._recall_group(members, group, clock, degrade=degrade)
            else:
                found = [popular_answer(request, self.catalogue) for request in members]
            answers.update(zip(positions, found, strict=True))
            clock.lap("merge")
        timings = clock.timings()
        return [candidates_of(answers[position], request, timings) for position, request in enumerate(encoded)]

    def _encoded(self, requests: Iterable[RecallRequest]) -> list[EncodedRequest]:
        catalogue, num_items, window = self.catalogue, self.index.num_items, self._model.spec.max_length
        encoded = []
        for request in requests:
            one = encode_request(checked_request(request), catalogue, prompt_tuned=self._prompt_tuned)
            check_feasible(one, catalogue, num_items=num_items, window=window)
            encoded.append(one)
        return encoded

    def _recall_group(
        self, requests: list[EncodedRequest], group: _Group, clock: Clock, *, degrade: bool
    ) -> Steps[list[Answer]]:
        tokens = batch_tokens(requests, max_history=self._model.spec.max_length - (group.num_interests - 1))
        quotas = np.array([request.quotas for request in requests], dtype=np.int64)
        clock.lap("encode")
        layout = self._chosen_layout(requests, group)
        if layout is Layout.GRAPH:
            recalled = yield from Recall(tokens, quotas)
            clock.lap("interests")
            return recalled_answers(self.catalogue, recalled, quotas)
        if layout is Layout.INDEX:
            output, rows, scores = yield from search_in_loop(
                self._model,
                self.index,
                tokens,
                group.num_interests,
                depth=_depth(requests),
                excluded=self._excluded(requests, tokens),
                # An approximate index names candidates by how many are wanted: for one, too few to find the best.
                quotas=quotas if group.merge == "quotas" and self.index.is_exact else None,
                lap=clock.lap,
            )
            degraded = None
        else:
            reached = yield from reach(self._model.fused, tokens, group.num_interests, degrade=degrade)
            clock.lap("interests")
            if reached.output is None:
                return [popular_answer(request, self.catalogue, reached.degraded) for request in requests]
            output, degraded = reached.output, reached.degraded
            rows, scores = yield from self._search(requests, tokens, output)
            clock.lap("search")
        merged = MERGE_FUNCTIONS[group.merge](rows, scores, fewer_quotas(quotas, output.interests.shape[1]))
        return answers_of(self.catalogue, merged, output.generated_rows, degraded)

    def _chosen_layout(self, requests: list[EncodedRequest], group: _Group) -> Layout:
        """Searches that are confined to some rows are a matter of each request, so they follow all interests."""
        if any(_is_confined(request) for request in requests):
            return Layout.FUSED
        most = self._recalls.get(group.num_interests, 0)
        k = max([request.k for request in requests])
        return self._layout.choose(
            self.index.num_items,
            len(requests),
            k,
            is_exact=self.index.is_exact,
            has_graph=group.merge == "quotas" and k <= most,
            is_scanned=k <= self._scans.get(group.num_interests, 0),
        )

    def _excluded(self, requests: list[EncodedRequest], tokens: Tokens) -> Int64Array:
        """(B, E) int64 rows that no search may give, 0 for none, perhaps some that the index does not have."""
        if self.catalogue.num_added:
            return pad_rows([request.excluded for request in requests])
        return tokens.excluded  # what is never fed back is the same then, and padded already

    def _search(self, group: list[EncodedRequest], tokens: Tokens, output: InterestsOutput) -> Steps[_Lists]:
        """The steps' lists: of the requests without filters in one search, of the others one by one."""
        depth = min(_depth(group), self.index.num_items)
        shape = (*output.interests.shape[:2], depth)
        rows, scores = np.zeros(shape, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)
        together = []
        for place, request in enumerate(group):
            among = self._among(request)
            if among is None:
                together.append(place)
            else:
                found, its_scores = yield from Search(output.interests[place], depth, among)
                rows[place, :, : found.shape[1]], scores[place, :, : found.shape[1]] = found, its_scores
        if together:
            queries = output.interests[together]
            excluded = np.repeat(self._excluded(group, tokens)[together], queries.shape[1], axis=0)
            found, its_scores = yield from Search(queries.reshape(-1, queries.shape[2]), depth, excluded=excluded)
            rows[together] = found.reshape(-1, *shape[1:])
            scores[together] = its_scores.reshape(-1, *shape[1:])
        return rows, scores

    def _among(self, request: EncodedRequest) -> Int64Array | None:
        """The rows that a request's search has to be confined to; None if it may look at all."""
        if request.allowed is not None or not _is_confined(request):
            return request.allowed
        return np.setdiff1d(self.index.rows, list(request.excluded), assume_unique=True)


class _Group(NamedTuple):
    """What requests share that are computed together: number of interests, 0 for popular items, depth and merge.

    So one user with a very long history, whose items an index may have to look up, does not slow the search of others.
    """

    num_interests: int
    depth_bits: int
    merge: str

    @staticmethod
    def of(request: EncodedRequest) -> _Group:
        num_interests = 0 if request.cold_start.popular else len(request.quotas)
        return _group(num_interests, request.k, len(request.excluded), request.merge)


@functools.lru_cache
def _group(num_interests: int, k: int, num_excluded: int, merge: str) -> _Group:
    """Few are asked for again and again; to look one up is cheaper."""
    if not num_interests:
        return _Group(0, 0, "")
    depth = num_to_search(k, merge=merge) + num_excluded
    return _Group(num_interests, max(depth, _MIN_DEPTH).bit_length(), merge)


def _is_confined(request: EncodedRequest) -> bool:
    return request.allowed is not None or len(request.excluded) > _MAX_SKIPPED


def _depth(requests: Iterable[EncodedRequest]) -> int:
    """How many items that are not excluded each step has to look up."""
    return max([num_to_search(request.k, merge=request.merge) for request in requests])
