"""Where recall takes the items from that it feeds back, and which way is the faster one."""

from __future__ import annotations

from enum import StrEnum

from recgpt.errors import ConfigError


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

    def searches_in_loop(self, num_items: int, batch: int) -> bool:
        """Whether a batch of so many requests searches inside the loop."""
        if self is not Layout.AUTO:
            return self is Layout.INDEX
        return batch >= min((least for items, least in CROSSOVER if num_items >= items), default=batch + 1)


CROSSOVER: tuple[tuple[int, int], ...] = ((0, 8), (50_000, 1))
"""From so many items on, the loop is faster from so many requests on: rows of benchmarks/results/catalogue_growth.json
and recall_latency.json in which ``index in the loop`` has the lower median."""


def layout_of(name: Layout | str) -> Layout:
    """The layout of this name; ConfigError if there is none."""
    try:
        return Layout(name)
    except ValueError as error:
        raise ConfigError(f"layout {name!r}: expected one of {', '.join(Layout)}") from error
