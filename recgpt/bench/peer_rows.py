"""Rows of our two-step recall and of peers' one step: times in alternating calls, ratios, and whose lists are right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import numpy as np
from rich.progress import Progress

from recgpt.bench.contenders import Batch, draw_batches
from recgpt.bench.floor import RecallFloor
from recgpt.bench.peer import Peer
from recgpt.bench.results import Fact, Row
from recgpt.bench.stages import time_recall
from recgpt.bench.timing import Case, Sample, interleave
from recgpt.bundle import Bundle
from recgpt.one_hop.answering import Recalls

EAGER = "recgpt, eager PyTorch and topk (2 steps)"

Histories = Sequence[Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Library:
    """A peer.

    Attributes:
        script: that runs in the peer's own environment.
        rows: what rows call the script's ways; the first way is PyTorch in float32.
        less_than_float32: the way that computes in less, if there is one.
    """

    script: str
    rows: Mapping[str, str]
    less_than_float32: str | None = None

    def exact_rows(self) -> list[str]:
        """Of the ways in float32."""
        return [row for way, row in self.rows.items() if way != self.less_than_float32]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Who is there.

    Attributes:
        libraries: the peers that may be, by name.
        quotas: of our steps; peers recall as many items in one.
        floor: of recall by these quotas.
        ours: by the name of the row; ``EAGER`` where there is a checkpoint.
        peers: by the name of the library.
        missing: names of either kind, and why they are not there.
    """

    libraries: Mapping[str, Library]
    quotas: tuple[int, ...]
    floor: RecallFloor
    ours: dict[str, Recalls] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def measure(
        self, bundle: Bundle, *, batch: int, num_rounds: int, num_warmup: int, num_compared: int, progress: Progress
    ) -> list[Row]:
        """A row a contender, and one of the floor.

        Args:
            bundle: of ours; its examples are what everyone is asked.
            batch: histories a call.
            num_rounds: in each of which everyone is called once.
            num_warmup: further rounds, thrown away.
            num_compared: calls whose lists are compared.
            progress: told about each round.
        """
        batches = draw_batches(bundle, batch=batch, num_batches=num_rounds, quotas=self.quotas)
        # The numbers of the items' rows stand for the items; peers keep the newest of a window.
        to_rows, window = bundle.catalogue().item_ids.rows, bundle.manifest.model.max_length
        histories = [[to_rows(request.history)[-window:].tolist() for request in requests] for requests in batches]
        task = progress.add_task(f"batch {batch}", total=num_rounds + num_warmup)
        done: Callable[[], None] = partial(progress.update, task, advance=1, refresh=True)
        floor, floor_case = self.floor.case(batch)
        cases = self._cases(batches, histories) | {floor: floor_case}
        samples = interleave(cases, num_rounds=num_rounds, num_warmup=num_warmup, done=done)
        identical = self._identical_lists(batches[:num_compared], histories[:num_compared])
        ratios = self._ratios(samples, floor)
        return [
            Row.of(
                name,
                {
                    "batch": batch,
                    "throughput": batch / (float(np.mean([sample.total_ns for sample in taken])) / 1e9),
                    **ratios[name],
                    "identical_lists": identical.get(name),
                },
                taken,
            )
            for name, taken in samples.items()
        ]

    def _cases(self, batches: Sequence[Batch], histories: Sequence[Histories]) -> dict[str, Case]:
        cases = {name: _case(recaller, batches) for name, recaller in self.ours.items()}
        for name, peer in self.peers.items():
            rows = self.libraries[name].rows
            cases |= {row: _peer_case(peer, way, histories, sum(self.quotas)) for way, row in rows.items()}
        return cases

    def _ratios(self, samples: Mapping[str, Sequence[Sample]], floor: str) -> dict[str, dict[str, Fact]]:
        """Of each row: how many times as fast as our eager PyTorch and as each peer's fastest; None without these.

        And how many times as long as the floor it took.
        """
        total = {name: median(sample.total_ns for sample in taken) for name, taken in samples.items()}
        rest = {name: median(_after_encode(sample) for sample in taken) for name, taken in samples.items()}
        times = [("ratio_to_eager", total, [EAGER] if EAGER in self.ours else [])]
        for name, library in self.libraries.items():
            rows, is_there = list(library.rows.values()), name in self.peers
            times.append((f"ratio_to_{name.lower()}", total, rows if is_there else []))
            if library.less_than_float32 is not None:
                times.append((f"ratio_to_{name.lower()}_float32", total, library.exact_rows() if is_there else []))
                times.append(("ratio_after_encode", rest, rows if is_there else []))
        return {
            name: {
                "ratio_to_floor": total[name] / total[floor],
                **{fact: min(took[row] for row in rows) / took[name] if rows else None for fact, took, rows in times},
            }
            for name in samples
        }

    def _identical_lists(self, batches: Sequence[Batch], histories: Sequence[Histories]) -> dict[str, float]:
        """Share of requests whose list is that of the same model in PyTorch; of our rows only where that is there."""
        families: list[tuple[str, Mapping[str, Sequence[Sequence[object]]]]] = []
        if EAGER in self.ours:
            ours = {
                name: [answer.item_ids for batch in batches for answer in recaller.recall_many(batch)]
                for name, recaller in self.ours.items()
            }
            families.append((EAGER, ours))
        for name, peer in self.peers.items():
            rows = self.libraries[name].rows
            lists = {
                row: [items for batch in histories for items in peer.call(way, batch, sum(self.quotas))[1]]
                for way, row in rows.items()
            }
            families.append((next(iter(rows.values())), lists))
        return {
            name: float(np.mean([items == other for items, other in zip(lists, family[reference], strict=True)]))
            for reference, family in families
            for name, lists in family.items()
        }


def _case(recaller: Recalls, batches: Sequence[Batch]) -> Case:
    return lambda number: time_recall(recaller, batches[number])


def _peer_case(peer: Peer, way: str, histories: Sequence[Histories], k: int) -> Case:
    return lambda number: peer.call(way, histories[number], k)[0]


def _after_encode(sample: Sample) -> int:
    return sample.total_ns - sample.stages_ns.get("encode", 0)
