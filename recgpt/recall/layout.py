"""Where recall takes the items from that it feeds back, and which way is the faster one."""

from __future__ import annotations

from enum import StrEnum

from recgpt.errors import ConfigError
from recgpt.recall.index_ann import IndexKind


class Layout(StrEnum):
    """How the autoregressive loop chooses its items.

    Attributes:
        FUSED: the graph looks through the catalogue itself, and all searches follow in one.
        INDEX: each step's own search finds it, so that the catalogue is looked through once a step.
        AUTO: the faster one of the two for the catalogue and the batch.
    """

    FUSED = "fused"
    INDEX = "index"
    AUTO = "auto"

    def searches_in_loop(self, num_items: int, batch: int, *, is_exact: bool) -> bool:
        """Whether a batch of so many requests searches inside the loop; with an approximate index it always should."""
        if self is not Layout.AUTO:
            return self is Layout.INDEX
        return not is_exact or batch >= min(
            (least for items, least in CROSSOVER if num_items >= items), default=batch + 1
        )


CROSSOVER: tuple[tuple[int, int], ...] = ((0, 256), (50_000, 32), (500_000, 8))
"""From so many items on, the loop is faster from so many requests on. ``crossover`` in the method of
benchmarks/results/catalogue_growth.json says from which measured sizes; these lie between them."""

APPROXIMATE_FROM = 500_000
"""From about so many items on, two exact searches of one request take more than the 10 ms that an answer may take on
one thread, by the rows of batch 1 in the same file."""


def index_kind_for(num_items: int) -> IndexKind:
    """How to search a catalogue of this size unless told otherwise."""
    return IndexKind.IVF_SQ8 if num_items >= APPROXIMATE_FROM else IndexKind.FLAT


def layout_of(name: Layout | str) -> Layout:
    """The layout of this name; ConfigError if there is none."""
    try:
        return Layout(name)
    except ValueError as error:
        raise ConfigError(f"layout {name!r}: expected one of {', '.join(Layout)}") from error
