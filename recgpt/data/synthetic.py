"""Made-up interactions that a sequence model can learn from, and made-up item vectors. Seeded; knows numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.errors import ConfigError
from recgpt.types import Float32Array, Int64Array

_MIN_LENGTH = 5
# Lengths are 5 + a Pareto tail. With these two the quartiles are 5, 6, 9, the 95th percentile is 20 and the mean 9,
# much as in the Amazon sequences of the S3-Rec paper (arXiv 2008.07873).
_TAIL_SHAPE = 2.0
_TAIL_SCALE = 4.5

_FOLLOW = 0.7  # chance that the next item is a successor of the last one, where the user's interest stays
_SUCCESSOR_WEIGHTS = (0.5, 0.25, 0.15, 0.1)
_DRIFT = 0.1  # chance a step that a user moves on to a related interest
_NUM_RELATED = 3
_ZIPF = 0.6  # popularity of an interest's r-th item falls like r ** -_ZIPF
_MAX_TRIES = 8


def generate(
    *, num_users: int, num_items: int, seed: int, num_interests: int = 20, max_length: int = 50
) -> Interactions:
    """Makes users who walk through a catalogue of latent interests.

    Each item belongs to one interest and has four successors there. Popularity inside an interest is Zipf's. A user
    starts with some interest, drifts to related ones (a Markov chain), and takes either a successor of the last item or
    any item of the present interest; never an item twice. Item ids are shuffled, so that they say nothing.

    Args:
        num_users: U; user ids are 1..U.
        num_items: item ids are out of 1..num_items; items that nobody takes are left out, as in a log.
        seed: equal seeds and sizes give equal interactions.
        num_interests: latent interests, at least 2.
        max_length: longest sequence; the shortest is 5, the median 6.

    Raises:
        ConfigError: a size is out of range.
    """
    _check_sizes(num_users, num_items, num_interests, max_length)
    rng = np.random.default_rng(seed)
    world = _World.build(rng, num_items, num_interests)
    lengths = _lengths(rng, num_users, max_length)
    # Longest first, so that the users who still walk at a step are the first ones.
    order = np.argsort(-lengths, kind="stable")
    taken = _walk(rng, world, lengths[order])
    histories = np.empty_like(taken)
    histories[order] = taken
    shuffled = rng.permutation(num_items) + 1
    ids = shuffled[histories[histories >= 0]]
    item_ids = IdMap(np.unique(ids).tolist())
    return Interactions.from_flat(IdMap(range(1, num_users + 1)), item_ids, item_ids.rows(ids), lengths)


def random_catalogue(*, num_items: int, hidden_size: int, seed: int, num_interests: int = 100) -> Float32Array:
    """Makes item vectors for benchmarks of large catalogues, clustered as learned ones are.

    Args:
        num_items: V.
        hidden_size: D.
        seed: equal seeds and sizes give equal vectors.
        num_interests: clusters.

    Returns:
        (V + 1, D) float32, indexed by row; row 0, padding, is 0.

    Raises:
        ConfigError: a size is below 1.
    """
    if min(num_items, hidden_size, num_interests) < 1:
        raise ConfigError(
            f"num_items = {num_items}, hidden_size = {hidden_size}, num_interests = {num_interests}: expected each "
            "to be at least 1"
        )
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((num_interests, hidden_size), dtype=np.float32)
    vectors = rng.standard_normal((num_items + 1, hidden_size), dtype=np.float32)
    vectors += centres[rng.integers(num_interests, size=num_items + 1)]
    vectors[0] = 0.0
    return vectors


@dataclass(frozen=True, kw_only=True, eq=False)
class _World:
    """The catalogue: items 0..V-1, interest after interest, each interest's most popular item first.

    Attributes:
        starts: (I + 1,) where each interest's items start.
        successors: (V, S).
        related: (I, R) interests a user drifts to.
    """

    starts: Int64Array
    successors: Int64Array
    related: Int64Array

    @classmethod
    def build(cls, rng: np.random.Generator, num_items: int, num_interests: int) -> _World:
        starts = np.linspace(0, num_items, num_interests + 1).astype(np.int64)
        own = np.repeat(np.arange(num_interests), np.diff(starts))
        shifts = rng.integers(1, num_interests, size=(num_interests, _NUM_RELATED))
        related = (np.arange(num_interests)[:, None] + shifts) % num_interests
        successors = _popular_items(rng, starts, np.repeat(own[:, None], len(_SUCCESSOR_WEIGHTS), axis=1))
        return cls(starts=starts, successors=successors, related=related)

    def next_items(self, rng: np.random.Generator, last: Int64Array, interests: Int64Array) -> Int64Array:
        """One item for each of N users: a successor of the last one, or any of the interest if that has changed."""
        same = (self.starts[interests] <= last) & (last < self.starts[interests + 1])
        follow = same & (rng.random(len(last)) < _FOLLOW)
        choice = rng.choice(len(_SUCCESSOR_WEIGHTS), size=len(last), p=_SUCCESSOR_WEIGHTS)
        return np.where(follow, self.successors[last, choice], _popular_items(rng, self.starts, interests))

    def drift(self, rng: np.random.Generator, interests: Int64Array) -> Int64Array:
        """The interests (N,) one step later."""
        moved = self.related[interests, rng.integers(_NUM_RELATED, size=len(interests))]
        return np.where(rng.random(len(interests)) < _DRIFT, moved, interests)


def _popular_items(rng: np.random.Generator, starts: Int64Array, interests: Int64Array) -> Int64Array:
    # If u is uniform, n * u ** (1 / (1 - s)) has a density that falls like rank ** -s: Zipf's law without a table.
    sizes = starts[interests + 1] - starts[interests]
    ranks = (sizes * rng.random(interests.shape) ** (1.0 / (1.0 - _ZIPF))).astype(np.int64)
    items: Int64Array = starts[interests] + ranks
    return items


def _lengths(rng: np.random.Generator, num_users: int, max_length: int) -> Int64Array:
    tail = _TAIL_SCALE * ((1.0 - rng.random(num_users)) ** (-1.0 / _TAIL_SHAPE) - 1.0)
    return np.minimum(_MIN_LENGTH + tail, max_length).astype(np.int64)


def _walk(rng: np.random.Generator, world: _World, lengths: Int64Array) -> Int64Array:
    """Items of users whose lengths fall: (U, longest), -1 after the end."""
    num_interests = len(world.starts) - 1
    taken = np.full((len(lengths), int(lengths[0])), -1, dtype=np.int64)
    interests = rng.integers(num_interests, size=len(lengths))
    taken[:, 0] = _popular_items(rng, world.starts, interests)
    for step in range(1, taken.shape[1]):
        walking = int(np.searchsorted(-lengths, -step))
        interests = world.drift(rng, interests[:walking])
        taken[:walking, step] = _new_items(rng, world, taken[:walking, :step], interests)
    return taken


def _new_items(rng: np.random.Generator, world: _World, histories: Int64Array, interests: Int64Array) -> Int64Array:
    """The next item of N users, none of which is in the user's history (N, T)."""
    items = np.empty(len(histories), dtype=np.int64)
    pending = np.arange(len(histories))
    for _ in range(_MAX_TRIES):
        items[pending] = world.next_items(rng, histories[pending, -1], interests[pending])
        pending = pending[(histories[pending] == items[pending, None]).any(axis=1)]
    # Some users have nearly used up their interest; any item that is new to them will do.
    for user in pending:
        items[user] = rng.choice(np.setdiff1d(np.arange(world.starts[-1]), histories[user]))
    return items


def _check_sizes(num_users: int, num_items: int, num_interests: int, max_length: int) -> None:
    if num_users < 1:
        raise ConfigError(f"num_users = {num_users}: expected at least 1")
    if max_length < _MIN_LENGTH:
        raise ConfigError(f"max_length = {max_length}: expected at least {_MIN_LENGTH}")
    if num_interests < 2:
        raise ConfigError(f"num_interests = {num_interests}: expected at least 2")
    if num_items < max(max_length, num_interests):
        raise ConfigError(
            f"num_items = {num_items}: expected at least max_length = {max_length}, since no user takes an item twice, "
            f"and at least num_interests = {num_interests}"
        )
