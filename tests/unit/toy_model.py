"""A model small enough to do by hand: whole numbers only, so that every score is exact and ties are real.

``ToyModel`` is the definition, ``ToyBackend`` puts it behind the contract, and ``recall_by_hand`` is what recall has to
give, written with sorted lists and no cleverness.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recgpt.backends.base import InterestsOutput, ModelSpec, RecallOutput, StepOutput, Tokens, check_tokens
from recgpt.data.ids import IdMap
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.index import ItemIndex
from recgpt.recall.layout import Layout
from recgpt.recall.recaller import Recaller
from recgpt.types import ItemId, RecallRequest

GARBAGE = 1e6  # in cache slots that hold no real token; must never be read


class ToyModel:
    """The interest is a position-weighted sum over the tokens, folded into -3..3 so that it is not linear."""

    def __init__(
        self, *, seed: int = 0, num_items: int = 30, num_users: int = 4, max_length: int = 8, size: int = 4
    ) -> None:
        rng = np.random.default_rng(seed)
        self.items = rng.integers(-3, 4, (num_items + 1, size))
        self.users = rng.integers(-3, 4, (num_users + 1, size))
        self.positions = rng.integers(-3, 4, (max_length, size))
        self.segments = rng.integers(-3, 4, (2, size))
        self.popularity = rng.integers(0, 6, num_items + 1)
        self.popularity[0] = 0
        self.spec = ModelSpec(
            num_items=num_items, num_users=num_users, max_length=max_length, hidden_size=size, num_blocks=1, num_heads=1
        )

    def token(self, user: int, row: int, position: int, segment: int) -> np.ndarray:
        weight = 1 + position % 3
        return weight * self.items[row] + self.users[user] + self.positions[position] + self.segments[segment]

    def interest(self, user: int, sequence: Sequence[tuple[int, int]]) -> np.ndarray:
        """Of (row, segment) pairs, oldest first."""
        return fold(sum(self.token(user, row, place, segment) for place, (row, segment) in enumerate(sequence)))

    def catalogue(self, *, strings: bool = False) -> Catalogue:
        """Item row r has the id 10 r, or "i<r>"; user row u the id 100 u, or "u<u>"."""
        rows, users = range(1, self.spec.num_items + 1), range(1, self.spec.num_users + 1)
        return Catalogue(
            item_ids=IdMap([f"i{row}" if strings else 10 * row for row in rows]),
            user_ids=IdMap([f"u{row}" if strings else 100 * row for row in users]),
            popularity=self.popularity.astype(np.int64),
        )

    def recaller(
        self,
        *,
        fused: Iterable[int] = (2, 6),
        prompt_tuned: bool = True,
        strings: bool = False,
        layout: Layout = Layout.FUSED,
    ) -> Recaller:
        backend = ToyBackend(self, fused=fused)
        index = ItemIndex.build(self.items.astype(np.float32))
        catalogue = self.catalogue(strings=strings)
        return Recaller(backend, index, catalogue, prompt_tuned=prompt_tuned, layout=layout, in_graph=backend)


def fold(total: np.ndarray) -> np.ndarray:
    return (total + 3) % 7 - 3


class ToyBackend:
    """The contract, one request at a time; the cache holds each token's summand."""

    recalls: Mapping[int, int] = {2: 6, 3: 30}
    scans: Mapping[int, int] = {}

    def __init__(self, model: ToyModel, *, fused: Iterable[int]) -> None:
        self.model = model
        self.spec = model.spec
        self.fused = frozenset(fused)
        self.calls: list[str] = []
        self.closed = False

    def prefill(self, tokens: Tokens) -> StepOutput:
        check_tokens(tokens, self.spec, num_steps=1)
        self.calls.append("prefill")
        return self._step(tokens, np.zeros(len(tokens), dtype=np.int64), tokens.lengths, None)

    def decode(self, tokens: Tokens, past: np.ndarray) -> StepOutput:
        self.calls.append("decode")
        return self._step(tokens, tokens.lengths, np.full(len(tokens), tokens.item_rows.shape[1]), past)

    def interest(self, tokens: Tokens, past: np.ndarray | None = None) -> np.ndarray:
        return (self.prefill(tokens) if past is None else self.decode(tokens, past)).interest

    def interests(self, tokens: Tokens, num_interests: int) -> InterestsOutput:
        check_tokens(tokens, self.spec, num_steps=num_interests)
        self.calls.append(f"interests_{num_interests}")
        interests = np.zeros((len(tokens), num_interests, self.spec.hidden_size), dtype=np.float32)
        generated = np.zeros((len(tokens), num_interests - 1), dtype=np.int64)
        for place, length in enumerate(tokens.lengths.tolist()):
            sequence = list(zip(tokens.item_rows[place, :length], tokens.segments[place, :length], strict=True))
            excluded = set(tokens.excluded[place].tolist())
            for step in range(num_interests):
                interests[place, step] = self.model.interest(tokens.user_rows[place], sequence)
                if step == num_interests - 1:
                    break
                generated[place, step] = best_row(self.model, interests[place, step], excluded)
                excluded.add(int(generated[place, step]))
                sequence.append((generated[place, step], 1))
        return InterestsOutput(interests=interests, generated_rows=generated)

    def recall(self, tokens: Tokens, quotas: np.ndarray) -> RecallOutput:
        output = self.interests(tokens, quotas.shape[1])
        self.calls[-1] = f"recall_{quotas.shape[1]}"
        width = self.recalls[quotas.shape[1]]
        rows, steps = np.zeros((2, len(tokens), width), dtype=np.int64)
        scores = np.zeros((len(tokens), width), dtype=np.float32)
        for place, interests in enumerate(output.interests):
            excluded = set(tokens.excluded[place].tolist())
            taken: list[int] = []
            for step, interest in enumerate(interests):
                for _ in range(quotas[place, step]):
                    row = best_row(self.model, interest, excluded | set(taken))
                    steps[place, len(taken)], scores[place, len(taken)] = step + 1, self.model.items[row] @ interest
                    taken.append(row)
            rows[place, : len(taken)] = taken
        return RecallOutput(rows=rows, scores=scores, steps=steps, generated_rows=output.generated_rows)

    def close(self) -> None:
        self.closed = True

    def _step(self, tokens: Tokens, num_past: np.ndarray, num_new: np.ndarray, past: np.ndarray | None) -> StepOutput:
        batch, width = tokens.item_rows.shape
        size = self.spec.hidden_size
        cached = 0 if past is None else past.shape[4]
        present = np.full((batch, 1, 2, 1, cached + width, size), GARBAGE, dtype=np.float32)
        interest = np.zeros((batch, size), dtype=np.float32)
        next_rows = np.zeros(batch, dtype=np.int64)
        for place in range(batch):
            start, stop = int(num_past[place]), int(num_past[place] + num_new[place])
            if past is not None:
                present[place, ..., :start, :] = past[place, ..., :start, :]
            for position in range(start, stop):
                present[place, ..., position, :] = self.model.token(
                    tokens.user_rows[place],
                    tokens.item_rows[place, position - start],
                    position,
                    tokens.segments[place, position - start],
                )
            interest[place] = fold(present[place, 0, 0, 0, :stop].sum(axis=0))
            next_rows[place] = best_row(self.model, interest[place], set(tokens.excluded[place].tolist()))
        return StepOutput(interest=interest, next_rows=next_rows, key_values=present)


def ranking(items: np.ndarray, interest: np.ndarray) -> list[tuple[int, float]]:
    """Rows 1..V with their scores, best first, the lower row first among equals."""
    scores = [float(np.dot(vector, interest)) for vector in items]
    return sorted(enumerate(scores[1:], start=1), key=lambda pair: (-pair[1], pair[0]))


def best_row(model: ToyModel, interest: np.ndarray, excluded: set[int]) -> int:
    return next(row for row, _ in ranking(model.items, interest) if row not in excluded)


@dataclass
class ByHand:
    """What recall must give, in ids."""

    item_ids: list[ItemId]
    scores: list[float]
    steps: list[int]
    generated_ids: list[ItemId]
    shared_user: bool
    num_unknown_items: int
    popular: bool
    num_unknown_filters: int = 0


def recall_by_hand(model: ToyModel, catalogue: Catalogue, request: RecallRequest, quotas: Sequence[int]) -> ByHand:
    """The whole recall of one request, straight from the issue's words."""
    item_ids, user_ids = list(catalogue.item_ids.ids), list(catalogue.user_ids.ids)
    user = user_ids.index(request.user_id) + 1 if request.user_id in user_ids else 0
    segments = request.segments or [0] * len(request.history)
    known = [
        (item_ids.index(item) + 1, segment)
        for item, segment in zip(request.history, segments, strict=True)
        if item in item_ids
    ]
    answer = ByHand([], [], [], [], user == 0, len(request.history) - len(known), not known)
    blocked = {item_ids.index(item) + 1 for item in request.blocked if item in item_ids}
    shown = set(range(1, len(item_ids) + 1)) - blocked
    if request.allowed is not None:
        shown &= {item_ids.index(item) + 1 for item in request.allowed if item in item_ids}
    answer.num_unknown_filters = len(
        [*set(request.blocked) - set(item_ids), *set(request.allowed or ()) - set(item_ids)]
    )
    if not known:
        by_popularity = sorted(shown, key=lambda row: (-model.popularity[row], row))
        for row in by_popularity[: sum(quotas)]:
            _add(answer, item_ids[row - 1], float(model.popularity[row]), 0)
        return answer
    seen = {row for row, segment in known if segment == 0} if request.filter_seen else set()
    sequence = known[-(model.spec.max_length - (len(quotas) - 1)) :]
    generated: set[int] = set()
    rankings: list[list[tuple[int, float]]] = []
    for step, quota in enumerate(quotas, start=1):
        ranked = ranking(model.items, model.interest(user, sequence))
        rankings.append([pair for pair in ranked if pair[0] in shown - seen])
        new = [pair for pair in rankings[-1] if item_ids[pair[0] - 1] not in answer.item_ids]
        for row, score in new[:quota] if request.merge == "quotas" else []:
            _add(answer, item_ids[row - 1], score, step)
        best = next(row for row, _ in ranked if row not in seen | blocked | generated)
        generated.add(best)
        if step < len(quotas):
            answer.generated_ids.append(item_ids[best - 1])
            sequence = [*sequence, (best, 1)]
    if request.merge != "quotas":
        for row, score, step in fuse_by_hand(request.merge, rankings, quotas)[: request.k]:
            _add(answer, item_ids[row - 1], score, step)
    return answer


def fuse_by_hand(
    merge: str, rankings: Sequence[Sequence[tuple[int, float]]], quotas: Sequence[int]
) -> list[tuple[int, float, int]]:
    """Row, weighted sum and step of all unseen items, best first; the toy catalogue is smaller than a fusion's pool."""
    parts: dict[int, list[float]] = {row: [] for row, _ in rankings[0]}
    for ranked, quota in zip(rankings, quotas, strict=True):
        total = sum(math.exp(score) for _, score in ranked)
        for row, score in ranked:
            rank = 1 + sum(other > score for _, other in ranked)
            part = math.exp(score) / total if merge == "probability" else 1 / (60 + rank)
            parts[row].append(quota / sum(quotas) * part)
    fused = [(row, float(np.float32(sum(given))), 1 + given.index(max(given))) for row, given in parts.items()]
    return sorted(fused, key=lambda item: (-item[1], item[2], item[0]))


def _add(answer: ByHand, item: ItemId, score: float, step: int) -> None:
    answer.item_ids.append(item)
    answer.scores.append(score)
    answer.steps.append(step)
