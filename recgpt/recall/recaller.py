"""Multi-interest recall: the one algorithm above every backend.

requests -> rows -> interests (backend) -> one batched search (item index) -> merge -> candidates
"""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from recgpt.backends.base import Backend, InterestsOutput
from recgpt.errors import BundleMismatchError, RequestError
from recgpt.recall.answers import Answer, answer_of, popular_answer
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import EncodedRequest, batch_tokens, check_feasible, encode_request
from recgpt.recall.index import ItemIndex
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

# A request that excludes more than this is searched by itself, among what it leaves. To look past more costs more.
_MAX_SKIPPED = 512


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

    Raises:
        BundleMismatchError: backend, index and catalogue are of different sizes.
    """

    def __init__(self, backend: Backend, index: ItemIndex, catalogue: Catalogue, *, prompt_tuned: bool) -> None:
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
        blocked: Collection[ItemId] = (),
        allowed: Collection[ItemId] | None = None,
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
            blocked=blocked,
            allowed=allowed,
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
        answers: dict[int, Answer] = {}
        for (num_interests, _), positions in groups.items():
            group = [encoded[position] for position in positions]
            found = (
                self._recall_group(group, num_interests, clock)
                if num_interests
                else [popular_answer(request, self.catalogue) for request in group]
            )
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
        window = self.backend.spec.max_length
        check_feasible(encoded, self.catalogue, num_items=self.index.num_items, window=window)
        return encoded

    def _recall_group(self, group: list[EncodedRequest], num_interests: int, clock: _Clock) -> list[Answer]:
        tokens = batch_tokens(group, max_history=self.backend.spec.max_length - (num_interests - 1))
        clock.lap("encode")
        output = generate_interests(self.backend, tokens, num_interests)
        clock.lap("interests")
        lists = self._search(group, output)
        clock.lap("search")
        return [
            answer_of(
                self.catalogue,
                *MERGE_FUNCTIONS[request.merge](*lists[position], request.quotas, request.excluded),
                output.generated_rows[position],
            )
            for position, request in enumerate(group)
        ]

    def _search(self, group: list[EncodedRequest], output: InterestsOutput) -> dict[int, _Lists]:
        """The lists of each request, by its place: those without filters in one search, the others one by one."""
        found: dict[int, _Lists] = {}
        together = []
        for place, request in enumerate(group):
            among = self._among(request)
            if among is None:
                together.append(place)
            else:
                depth = num_to_search(request.quotas, 0, merge=request.merge)
                found[place] = self.index.search_among(output.interests[place], depth, among)
        if together:
            queries = output.interests[together]
            depth = max(_depth(group[place]) for place in together)
            rows, scores = self.index.search(queries.reshape(-1, queries.shape[2]), depth)
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

    So one user with a very long history does not make the search of all others as deep.
    """
    if request.cold_start.popular:
        return 0, 0
    return len(request.quotas), max(_depth(request), _MIN_DEPTH).bit_length()


def _depth(request: EncodedRequest) -> int:
    return num_to_search(request.quotas, len(request.excluded), merge=request.merge)


# Rows and scores of the steps' lists of one request, both (J, N), best first.
_Lists = tuple[Int64Array, Float32Array]


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
