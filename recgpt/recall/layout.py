"""How recall is laid out over graphs and searches, and which way is the faster one."""

from __future__ import annotations

from enum import StrEnum

from recgpt.errors import ConfigError
from recgpt.recall.index_ann import IndexKind


class Layout(StrEnum):
    """Who looks through the catalogue for the items that are fed back, and for those that are recalled.

    Attributes:
        FUSED: a graph for what is fed back; the index then for all lists at once.
        INDEX: the index, step by step for both, so that the catalogue is looked through once a step.
        GRAPH: one graph for both, and for the merge; FUSED for requests that no such graph can answer.
        AUTO: the fastest of them for the catalogue and the batch.
    """

    FUSED = "fused"
    INDEX = "index"
    GRAPH = "graph"
    AUTO = "auto"

    def may_use_graph(self, num_items: int, *, is_exact: bool) -> bool:
        """Whether it is GRAPH for any request; arguments as of ``choose``."""
        return self is Layout.GRAPH or (self is Layout.AUTO and is_exact and num_items < GRAPH_BELOW)

    def choose(
        self, num_items: int, batch: int, k: int, *, is_exact: bool, has_graph: bool, is_scanned: bool = False
    ) -> Layout:
        """The layout for a batch of so many requests.

        Args:
            num_items: that can be found.
            batch: how many requests.
            k: items in the longest list that is asked for.
            is_exact: whether the index misses nothing; AUTO searches an approximate one always in the loop.
            has_graph: whether there is a graph that can answer these requests.
            is_scanned: whether it scans the catalogue for lists of this length.
        """
        if self is Layout.GRAPH and not has_graph:
            return Layout.FUSED
        if self is not Layout.AUTO:
            return self
        is_few = batch <= GRAPH_UP_TO or batch * num_items <= GRAPH_SCORES
        is_fast = is_scanned or is_few or k >= LONG_LIST
        if has_graph and is_fast and self.may_use_graph(num_items, is_exact=is_exact):
            return Layout.GRAPH
        least = min((least for items, least in CROSSOVER if num_items >= items), default=batch + 1)
        return Layout.FUSED if is_exact and batch < least else Layout.INDEX


GRAPH_UP_TO, LONG_LIST, GRAPH_BELOW = 64, 100, 30_000
"""Over fewer items than the last, one graph is the fastest where it scans; where it does not, for so many requests with
lists of ten, by the rows of peers.json, and for any number of them with lists as long as those of
catalogue_growth.json. Over more items no such graph is even loaded, for each has copies of the item matrix of its own;
there it is faster only for 32 requests and more, by up to a quarter, and over catalogues that are searched
approximately unless told otherwise by up to two fifths."""

GRAPH_SCORES = 768_000
"""With no more scores a step than 64 requests have over 12,000 items, one graph is the faster way for any number of
them: over the 1,000 items of ``make demo`` for 256, by the latency that it shows."""

CROSSOVER: tuple[tuple[int, int], ...] = ((0, 32), (30_000, 1))
"""From so many items on, the loop is faster than a graph for what is fed back from so many requests on, by the rows of
catalogue_growth.json."""

APPROXIMATE_FROM = 500_000
"""From about so many items on, two exact searches of one request take more than the 10 ms that an answer may take on
one thread, by the rows of batch 1 in the same file."""


def least_share(num_items: int, *, is_exact: bool) -> int | None:
    """How many requests a thread needs at least for a call to be shared out to threads, each with runs of its own.

    None where several threads inside a run or a search are faster. Arguments as of ``Layout.choose``.
    """
    if not is_exact:
        return 1
    return LEAST_SHARE if num_items < GRAPH_BELOW else None


LEAST_SHARE = 16
"""Over catalogues that one graph looks through, two threads with so many requests each are as fast as one or faster,
with more requests faster, by the rows of call_threads.json; where items are searched for approximately, with one each.
"""


def index_kind_for(num_items: int, size: int) -> IndexKind:
    """How to search so many items of width ``size`` unless told otherwise."""
    if num_items < APPROXIMATE_FROM:
        return IndexKind.FLAT
    return IndexKind.IVF_SQ8 if size % 2 else IndexKind.IVF_PQ


def layout_of(name: Layout | str) -> Layout:
    """The layout of this name; ConfigError if there is none."""
    try:
        return Layout(name)
    except ValueError as error:
        raise ConfigError(f"layout {name!r}: expected one of {', '.join(Layout)}") from error
