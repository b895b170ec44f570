"""Multi-interest recall: the one algorithm above every backend.

requests -> rows -> interests (backend) -> one batched search (item index) -> merge -> candidates
"""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, TypedDict

import numpy as np

from recgpt.backends.base import Backend, InterestsOutput
from recgpt.errors import BundleMismatchError, QuotaError, RequestError, ShortfallError
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import EncodedRequest, batch_tokens, encode_request, pad_rows
from recgpt.recall.index import ItemIndex
from recgpt.recall.layout import Layout
from recgpt.recall.loop import search_in_loop
from recgpt.recall.merge import MERGE_FUNCTIONS, num_to_search
from recgpt.recall.steps import generate_interests
from recgpt.types import (
    Candidates,
    Float32Array,
    Int64Array,
    ItemId,
    RecallRequest,
    Timings,
    UserId,
)

# Searches up to about this deep cost much the same.
_MIN_DEPTH = 64


class PretrainedOnlyWarning(UserWarning):
    """Several steps were asked of a model that was not prompt-tuned; the paper's Variant_1 shows that this hurts."""


class Recaller:
    """Recalls items for users, whichever backend computes their interests.

    Safe to call from several threads. Use as a context manager, or call ``close``.

    Args:
        backend: runs the model.
        index: finds items for interests; of the same export as the model.
        catalogue: ids and popularity; of the same export as the model.
        prompt_tuned: whether the model went through stage 2; decides the default quotas.
        layout: where the items that are fed back come from.

    Raises:
        BundleMismatchError: backend, index and catalogue are of different sizes.
    """

    def __init__(
        self,
        backend: Backend,
        index: ItemIndex,
        catalogue: Catalogue,
        *,
        prompt_tuned: bool,
        layout: Layout = Layout.FUSED,
    ) -> None:
        spec = backend.spec
        model = (spec.num_items, spec.hidden_size, spec.num_users)
        found = (catalogue.num_modelled, index.size, len(catalogue.user_ids))
        if found != model or index.num_items != catalogue.num_recallable:
            raise BundleMismatchError(
                f"the model has {spec.num_items} items of width {spec.hidden_size} and {spec.num_users} users, the "
                f"index {index.num_items} items of width {index.size}, the id maps {len(catalogue.item_ids)} items and "
                f"{len(catalogue.user_ids)} users; expected all from one export: run export/to_onnx.py again"
            )
        self._backend = backend
        self._index = index
        self._catalogue = catalogue
        self._prompt_tuned = prompt_tuned
        self._layout = layout

    @property
    def backend(self) -> Backend:
        """Runs the model."""
        return self._backend

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

    def recall(
        self,
        history: Sequence[ItemId],
        *,
        user_id: UserId | None = None,
        segments: Sequence[int] | None = None,
        k: int = 10,
        quotas: Sequence[int] | None = None,
        merge: str = "quotas",
        filter_seen: bool = True,
    ) -> Candidates:
        """Recalls k items for one user; arguments and errors as in RecallRequest and ``recall_many``."""
        request = RecallRequest(
            history=history,
            user_id=user_id,
            segments=segments,
            k=k,
            quotas=quotas,
            merge=merge,
            filter_seen=filter_seen,
        )
        return self.recall_many([request])[0]

    def recall_many(self, requests: Iterable[RecallRequest]) -> list[Candidates]:
        """Recalls items for several users in as few calls of model and index as their numbers of interests allow.

        Args:
            requests: any mix of k, quotas, merges and history lengths.

        Returns:
            One answer a request, in their order.

        Raises:
            ShortfallError: the catalogue cannot give a request's k items.
            QuotaError: more interests than the context window has room for.
            ServerError: the backend is a server and did not answer.
        """
        clock = _Clock()
        encoded = [self._encode(request) for request in requests]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for position, request in enumerate(encoded):
            groups[_group(request)].append(position)
        if not self.prompt_tuned and any(num_interests > 1 for num_interests, _ in groups):
            warnings.warn(
                "several interests asked of a model that was only pre-trained; prompt-tune it, or use one quota",
                PretrainedOnlyWarning,
                stacklevel=2,
            )
        clock.lap("encode")
        answers: dict[int, _Answer] = {}
        for (num_interests, _), positions in groups.items():
            group = [encoded[position] for position in positions]
            found = self._recall_group(group, num_interests, clock) if num_interests else self._popular(group)
            answers.update(zip(positions, found, strict=True))
            clock.lap("merge")
        timings = clock.timings()
        return [
            Candidates(**answers[position], cold_start=request.cold_start, timings=timings)
            for position, request in enumerate(encoded)
        ]

    def close(self) -> None:
        """Lets go of the backend; calling it twice is harmless."""
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _encode(self, request: RecallRequest) -> EncodedRequest:
        if not isinstance(request, RecallRequest):
            raise RequestError(f"expected a RecallRequest, got {request!r}")
        encoded = encode_request(request, self.catalogue, prompt_tuned=self.prompt_tuned)
        available = self.index.num_items - len(encoded.excluded)
        if request.k > available:
            raise ShortfallError(
                f"k = {request.k}, but only {available} of the catalogue's {self.index.num_items} items can be "
                f"recalled ({len(encoded.excluded)} are in the history); ask for at most {available}",
                requested=request.k,
                available=available,
            )
        num_interests, window = len(encoded.quotas), self.backend.spec.max_length
        if num_interests > window:
            raise QuotaError(f"{num_interests} quotas: expected at most {window}, the positions of the context window")
        generable = self.catalogue.num_modelled - len(encoded.never_generated)
        if num_interests - 1 > generable:
            raise QuotaError(
                f"{num_interests} quotas: expected at most {generable + 1}, one more than can be generated"
            )
        return encoded

    def _recall_group(self, group: list[EncodedRequest], num_interests: int, clock: _Clock) -> list[_Answer]:
        tokens = batch_tokens(group, max_history=self.backend.spec.max_length - (num_interests - 1))
        depth = max(num_to_search(request.quotas, merge=request.merge) for request in group)
        excluded = pad_rows([np.fromiter(request.excluded, dtype=np.int64) for request in group])
        clock.lap("encode")
        if self._layout.searches_in_loop(self.index.num_items, len(group)):
            output, rows, scores = search_in_loop(
                self.backend, self.index, tokens, num_interests, depth=depth, excluded=excluded, lap=clock.lap
            )
        else:
            output = generate_interests(self.backend, tokens, num_interests)
            clock.lap("interests")
            rows, scores = self._search(output, depth, excluded)
            clock.lap("search")
        return [
            self._answer(
                *MERGE_FUNCTIONS[request.merge](rows[position], scores[position], request.quotas, request.excluded),
                output.generated_rows[position],
            )
            for position, request in enumerate(group)
        ]

    def _search(self, output: InterestsOutput, depth: int, excluded: Int64Array) -> tuple[Int64Array, Float32Array]:
        """What each interest finds: rows and scores, (B, J, depth), in one search."""
        batch, num_interests, width = output.interests.shape
        every = np.repeat(excluded, num_interests, axis=0)
        rows, scores = self.index.search(output.interests.reshape(-1, width), depth, excluded=every)
        return rows.reshape(batch, num_interests, -1), scores.reshape(batch, num_interests, -1)

    def _popular(self, group: list[EncodedRequest]) -> list[_Answer]:
        answers: list[_Answer] = []
        for request in group:
            k = sum(request.quotas)
            # Items of the history that the model does not know may be in the catalogue, and seen.
            rows = self.catalogue.popular_rows[: k + len(request.excluded)]
            rows = rows[~np.isin(rows, list(request.excluded))][:k]
            scores = self.catalogue.popularity[rows].astype(np.float32)
            answers.append(self._answer(rows, scores, np.zeros(k, dtype=np.int64), rows[:0]))
        return answers

    def _answer(self, rows: Int64Array, scores: Float32Array, steps: Int64Array, generated: Int64Array) -> _Answer:
        item_ids = self.catalogue.item_ids
        return {
            "item_ids": item_ids.ids_of(rows),
            "scores": scores,
            "steps": steps,
            "generated_ids": item_ids.ids_of(generated),
        }


def _group(request: EncodedRequest) -> tuple[int, int]:
    """What requests share that are computed together: number of interests, 0 for popular items, and depth of search.

    So one user with a very long history, whose items an index may have to look up, does not slow the search of others.
    """
    if request.cold_start.popular:
        return 0, 0
    depth = num_to_search(request.quotas, merge=request.merge) + len(request.excluded)
    return len(request.quotas), max(depth, _MIN_DEPTH).bit_length()


class _Answer(TypedDict):
    """The part of a Candidates that is known before the clock stops."""

    item_ids: tuple[ItemId, ...]
    scores: Float32Array
    steps: Int64Array
    generated_ids: tuple[ItemId, ...]


class _Clock:
    """Adds up the time between laps under the name of the stage that just ended."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter_ns()
        self._stages = {"encode": 0, "interests": 0, "search": 0, "merge": 0}

    def lap(self, stage: str) -> None:
        now = time.perf_counter_ns()
        self._stages[stage] += now - self._last
        self._last = now

    def timings(self) -> Timings:
        return Timings(
            **{f"{stage}_ns": duration for stage, duration in self._stages.items()}, total_ns=self._last - self._start
        )
