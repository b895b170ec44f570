"""Several threads for one call: inside its runs and searches, or with a share of its requests each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median

import numpy as np

from recgpt.bench.load import Lists
from recgpt.bench.results import Row
from recgpt.bench.timing import Case, Sample
from recgpt.bundle import Bundle
from recgpt.engine import Engine, open_recaller
from recgpt.one_hop.answering import Recalls
from recgpt.recall.layout import Layout
from recgpt.recall.shares import Shares
from recgpt.types import RecallRequest

ONE = "one thread"
INSIDE = "threads inside runs and searches"
SHARED = "requests shared out to threads"
DEFAULT = "engine, as it does by default"

Ways = Mapping[str, Recalls]


@contextmanager
def open_ways(bundle: Bundle, num_threads: int) -> Iterator[Ways]:
    """Opens one recaller a way, all of them with the default layout."""
    opened = partial(open_recaller, bundle, bundle.catalogue(), layout=Layout.AUTO)
    with ExitStack() as stack:
        one = stack.enter_context(opened(num_threads=1))
        inside = stack.enter_context(opened(num_threads=num_threads))
        shared = stack.enter_context(opened(num_threads=1, shares=Shares(num_threads, least=1)))
        default = stack.enter_context(Engine.load(bundle.path, num_threads=num_threads))
        yield {ONE: one, INSIDE: inside, SHARED: shared, DEFAULT: default}


def cases(ways: Ways, batches: Sequence[Sequence[RecallRequest]]) -> dict[str, Case]:
    """How to time each way on the batch of a round."""

    def timed(recaller: Recalls) -> Case:
        def case(number: int) -> Sample:
            started = time.perf_counter_ns()
            recaller.recall_many(batches[number])
            return Sample(total_ns=time.perf_counter_ns() - started)

        return case

    return {name: timed(recaller) for name, recaller in ways.items()}


def rows(
    ways: Ways,
    samples: Mapping[str, Sequence[Sample]],
    compared: Sequence[RecallRequest],
    expected: Lists,
    **setting: int,
) -> Iterator[Row]:
    """A row a way.

    Args:
        ways: of ``open_ways``.
        samples: of each.
        compared: requests whose lists, asked together, are held against ``expected``.
        expected: their lists when each is asked alone of one thread.
        setting: facts of all rows; ``batch`` among them.
    """
    took = {name: median(sample.total_ns for sample in taken) for name, taken in samples.items()}
    for name, taken in samples.items():
        found = [answer.item_ids for answer in ways[name].recall_many(compared)]
        facts = {
            **setting,
            "throughput": setting["batch"] / (took[name] / 1e9),
            "ratio_to_one": took[ONE] / took[name],
            "identical_lists": float(np.mean([one == other for one, other in zip(found, expected, strict=True)])),
        }
        yield Row.of(name, facts, taken)
