"""Requests as ETUDE makes them: synthetic sessions replayed click by click, each click asking with all clicks so far.

Source: B. Kersbergen, O. Sprangers, S. Schelter: ETUDE, ICDE 2024, and its code, github.com/bkersbergen/etudelib, whose
fits to the clicks of a shop these are. Drawn is the stationary mix, clicks of sessions of all ages in random order; its
own generator ages sessions as they are answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recgpt.types import Int64Array, ItemId, RecallRequest

# Clicks that are drawn for each one that is kept, so that the requests come from many sessions.
_CLICKS_A_REQUEST = 20


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """``start + scale u^(1 / exponent)``, u uniform in 0..1, as ``scipy.stats.powerlaw``; whole numbers up to scale."""

    exponent: float
    start: int
    scale: int

    def at(self, uniform: NDArray[np.float64]) -> Int64Array:
        """The values at quantiles ``uniform``, rounded to the nearest; half of all sessions have the least length."""
        values = np.rint(self.start + self.scale * uniform ** (1 / self.exponent))
        whole: Int64Array = np.minimum(values, self.scale).astype(np.int64)
        return whole


SESSION_LENGTHS = PowerLaw(exponent=0.07004263982467046, start=2, scale=277)
ITEM_CLICKS = PowerLaw(exponent=0.040690006010909816, start=1, scale=2335)


def history_lengths(number: int, generator: np.random.Generator) -> Int64Array:
    """Lengths (N,) of the histories of clicks drawn from all clicks of many sessions; at least 1."""
    lengths = SESSION_LENGTHS.at(generator.random(number * _CLICKS_A_REQUEST // SESSION_LENGTHS.start))
    clicks = np.concatenate([np.arange(1, length + 1) for length in lengths])
    return generator.choice(clicks, number, replace=False)


def click_requests(
    number: int, item_ids: Sequence[ItemId], *, quotas: tuple[int, ...], seed: int = 0
) -> list[RecallRequest]:
    """Requests of an anonymous user each, the same ones for the same arguments.

    Args:
        number: of requests.
        item_ids: of the catalogue; how often each is clicked is drawn as well.
        quotas: of each request.
        seed: of all draws.
    """
    generator = np.random.default_rng(seed)
    shares = np.cumsum(ITEM_CLICKS.at(generator.random(len(item_ids))), dtype=np.float64)
    lengths = history_lengths(number, generator)
    clicked = np.searchsorted(shares, generator.random(int(lengths.sum())) * shares[-1], side="right")
    histories = np.split(clicked, np.cumsum(lengths)[:-1])
    return [
        RecallRequest(history=[item_ids[place] for place in history.tolist()], k=sum(quotas), quotas=quotas)
        for history in histories
    ]
