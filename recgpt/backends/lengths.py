"""Batches of histories of different lengths: which widths there are, and when a batch is better run in parts.

A graph runs a batch as wide as its longest history. Sorted by length and cut at a few widths, the short ones are not
padded to the longest; each cut costs one more run. Knows lengths and costs; not what runs the graphs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np

from recgpt.backends.base import InterestsOutput, ModelSpec, RecallOutput, Tokens
from recgpt.types import Int64Array

Output = TypeVar("Output", InterestsOutput, RecallOutput)

_MIN_WIDTH = 8

# Enough rows and runs for the time of a token to show; no further runs where the catalogue is large.
_NUM_PROBE_ROWS = 8
_MIN_PROBES, _MAX_PROBES = 4, 24
_PROBING_NS = 30_000_000


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """What a run of B rows, T wide, costs beyond what each row costs anyway: ``call_ns + B * T * token_ns``."""

    call_ns: float
    token_ns: float


def ladder(width: int, highest: int | None = None) -> int:
    """The next power of two, from 8 on, but not above ``highest`` unless the width is itself."""
    step = max(_MIN_WIDTH, 1 << (width - 1).bit_length())
    return step if highest is None else max(width, min(step, highest))


def cut_by_length(lengths: Int64Array, cost: RunCost) -> list[Int64Array]:
    """The cheapest way to run a batch: parts of rows of like lengths, cut at steps of the ladder only.

    Args:
        lengths: (B,) int64, at least one.
        cost: of a run.

    Returns:
        The places of each part's rows in the batch, shorter rows first; all places where cutting does not pay.
    """
    listed = lengths.tolist()
    num_padding = len(listed) * max(listed) - sum(listed)
    if num_padding * cost.token_ns <= cost.call_ns:
        return [np.arange(len(lengths))]  # no cut saves more than all of the padding
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order]
    steps = sorted({ladder(int(length)) for length in np.unique(lengths)})
    ends = [0, *np.searchsorted(ascending, steps, side="right").tolist()]
    # The cheapest way to run the rows before each end, and where its last part begins.
    totals, begins = [0.0], [0]
    for last in range(1, len(ends)):
        width = int(ascending[ends[last] - 1])
        ways = [
            totals[first] + cost.call_ns + (ends[last] - ends[first]) * width * cost.token_ns for first in range(last)
        ]
        totals.append(min(ways))
        begins.append(ways.index(totals[-1]))
    parts, last = [], len(ends) - 1
    while last > 0:
        parts.append(order[ends[begins[last]] : ends[last]])
        last = begins[last]
    return parts[::-1]


def rows_of(tokens: Tokens, places: Int64Array) -> Tokens:
    """Some rows of a batch, no wider than they need."""
    excluded = tokens.excluded[places]
    width = int(tokens.lengths[places].max(initial=1))
    num_excluded = int(np.flatnonzero(excluded.any(axis=0)).max(initial=0)) + 1
    return replace(
        tokens,
        user_rows=tokens.user_rows[places],
        item_rows=tokens.item_rows[places, :width],
        segments=tokens.segments[places, :width],
        lengths=tokens.lengths[places],
        excluded=excluded[:, :num_excluded],
    )


def run_in_parts(run: Callable[[Tokens, Int64Array], Output], tokens: Tokens, cost: RunCost) -> Output:
    """Runs a batch whole, or in the parts that ``cut_by_length`` makes of it; the answers in the order of the batch.

    Args:
        run: runs a graph on a batch as wide as it is, of the rows that stand at some places of ``tokens``.
        tokens: the batch.
        cost: of a run of this graph.
    """
    parts = cut_by_length(tokens.lengths, cost)
    if len(parts) < 2:
        return run(tokens, parts[0])
    outputs = [run(rows_of(tokens, places), places) for places in parts]
    back = np.argsort(np.concatenate(parts))
    names = [field.name for field in fields(outputs[0])]
    joined = {name: np.concatenate([getattr(output, name) for output in outputs])[back] for name in names}
    return type(outputs[0])(**joined)


def measure_run_cost(run: Callable[[Tokens], object], spec: ModelSpec, *, num_interests: int) -> RunCost:
    """Times a few runs of a graph with the whole loop in it.

    Args:
        run: runs the graph on a batch.
        spec: the model's sizes.
        num_interests: J of the graph.

    Returns:
        ``call_ns``, the time to take one short history from a batch and run it, and ``token_ns``, 0 where a longer one
        takes no longer.
    """

    def taken(tokens: Tokens) -> object:
        return run(rows_of(tokens, np.arange(len(tokens))))

    longest = spec.max_length - (num_interests - 1)
    shortest = min(_MIN_WIDTH, longest)
    call_ns = float(np.median(_times_ns(taken, _probe(1, shortest))))
    if longest == shortest:
        return RunCost(call_ns=call_ns, token_ns=0.0)
    times = _times_ns(run, *(_probe(_NUM_PROBE_ROWS, width) for width in (shortest, longest)))
    token_ns = float(np.median(times[:, 1] - times[:, 0])) / (_NUM_PROBE_ROWS * (longest - shortest))
    return RunCost(call_ns=call_ns, token_ns=max(0.0, token_ns))


def _times_ns(run: Callable[[Tokens], object], *batches: Tokens) -> Int64Array:
    """(probes, batches) int64; the batches take turns, so that whatever else the machine does slows all of them."""
    times: list[list[int]] = []
    begun = time.perf_counter_ns()
    while len(times) < _MIN_PROBES or (len(times) < _MAX_PROBES and time.perf_counter_ns() - begun < _PROBING_NS):
        times.append([])
        for batch in batches:
            started = time.perf_counter_ns()
            run(batch)
            times[-1].append(time.perf_counter_ns() - started)
    return np.array(times[1:], dtype=np.int64)  # the first run of a shape makes room for it


def _probe(num_rows: int, width: int) -> Tokens:
    rows = np.ones((num_rows, width), dtype=np.int64)
    return Tokens(
        user_rows=np.zeros(num_rows, dtype=np.int64),
        item_rows=rows,
        segments=np.zeros_like(rows),
        lengths=np.full(num_rows, width, dtype=np.int64),
        excluded=np.zeros((num_rows, 1), dtype=np.int64),
    )
