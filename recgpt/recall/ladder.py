"""The degrade ladder: what is still answered when a server fails. All interests -> fewer interests -> popular items.

Knows which interests it has; not why a server failed, nor how long anything may take.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from recgpt.asking import Steps
from recgpt.backends.asks import TakeReserve
from recgpt.backends.base import InterestsOutput, Tokens
from recgpt.errors import ServerError
from recgpt.recall.steps import Generated, interests_steps
from recgpt.types import FEWER_INTERESTS, POPULAR, Degraded, Int64Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Reached:
    """How far the ladder had to be gone down.

    Attributes:
        output: the interests there are; None if there are none.
        degraded: the rung and its reason; None at the top.
    """

    output: InterestsOutput | None
    degraded: Degraded | None


def reach(fused: Collection[int], tokens: Tokens, num_interests: int, *, degrade: bool) -> Steps[Reached]:
    """Asks for all interests, and with ``degrade`` for less if that fails.

    Steps that were answered before one failed are kept. If there are none, one interest alone is asked for in the time
    that was kept back.

    Raises:
        ServerError: a server failed and ``degrade`` is off.
    """
    generated = Generated(tokens)
    try:
        return Reached(output=(yield from interests_steps(fused, generated, num_interests)), degraded=None)
    except ServerError as error:
        if not degrade:
            raise
        reason = str(error)
    if not generated.interests and num_interests > 1:
        yield from TakeReserve()
        try:
            alone = yield from interests_steps(fused, Generated(tokens), 1)
            return Reached(output=alone, degraded=Degraded(rung=FEWER_INTERESTS, reason=reason))
        except ServerError as error:
            reason = str(error)
    if generated.interests:
        return Reached(output=generated.output(), degraded=Degraded(rung=FEWER_INTERESTS, reason=reason))
    return Reached(output=None, degraded=Degraded(rung=POPULAR, reason=reason))


def fewer_quotas(quotas: Int64Array, num_interests: int) -> Int64Array:
    """Quotas (B, J) when only the first interests are there; the first one takes over what the others had."""
    kept = quotas[:, :num_interests].copy()
    kept[:, 0] += quotas[:, num_interests:].sum(axis=1)
    return kept
