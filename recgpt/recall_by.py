"""Where recall happens when a server computes the interests: the ways to share the work out with a client."""

from __future__ import annotations

from enum import StrEnum

from recgpt.errors import ConfigError


class RecallBy(StrEnum):
    """Who turns interests into items.

    Attributes:
        CLIENT: the client, with the item index in its process; servers run ``interests_J``, or ``prefill`` and
            ``decode``.
        GRAPH: servers, by the graph ``recall_J``; the client turns ids into rows and back.
        ENGINE: servers, by the model ``recall_engine``, which holds engine and index.
    """

    CLIENT = "client"
    GRAPH = "graph"
    ENGINE = "engine"


def recall_by_of(name: RecallBy | str) -> RecallBy:
    """The one of this name; ConfigError if there is none."""
    try:
        return RecallBy(name)
    except ValueError as error:
        raise ConfigError(f"recall_by = {name!r}: expected one of {', '.join(RecallBy)}") from error
