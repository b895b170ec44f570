"""Requests of real histories, and the ways to run those of different lengths together."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from recgpt.backends.base import InterestsOutput, Tokens
from recgpt.backends.graph_backend import GraphBackend
from recgpt.backends.lengths import RunCost
from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.bench.load import lists_alone
from recgpt.bench.stages import time_recall
from recgpt.bench.timing import Case, Sample
from recgpt.bundle import Bundle
from recgpt.data.readers import load_interactions
from recgpt.recall.recaller import Recaller
from recgpt.types import ItemId, RecallRequest, UserId

PADDED = "padded to the longest"
PARTS = "cut by length"
SINGLE = "one by one"

History = tuple[UserId, tuple[ItemId, ...]]


class _PaddedBackend(OnnxRuntimeBackend):
    """One run a batch, as wide as its longest history."""

    def interests(self, tokens: Tokens, num_interests: int) -> InterestsOutput:
        return GraphBackend.interests(self, tokens, num_interests)


def read_histories(bundle: Bundle, data: Path | None) -> list[History]:
    """Users and their histories: of a data file, in its order, or the examples that the bundle carries."""
    if data is None:
        return [(example.user_id, example.history) for example in bundle.examples()]
    interactions = load_interactions(data)
    return [
        (interactions.user_ids.id(row), tuple(map(interactions.item_ids.id, sequence.tolist())))
        for row, sequence in enumerate(interactions.sequences, start=1)
    ]


def draw_mixed(
    histories: Sequence[History], *, batch: int, num_batches: int, quotas: tuple[int, ...]
) -> list[list[RecallRequest]]:
    """Batches of histories drawn with replacement; the same ones each time."""
    drawn = np.random.default_rng(batch).integers(len(histories), size=(num_batches, batch))
    return [
        [
            RecallRequest(history=history, user_id=user_id, k=sum(quotas), quotas=quotas)
            for user_id, history in (histories[place] for place in row)
        ]
        for row in drawn.tolist()
    ]


def length_facts(histories: Sequence[History]) -> dict[str, float]:
    """How long the histories are."""
    lengths = [len(history) for _, history in histories]
    return {
        "num_histories": len(lengths),
        "mean_length": float(np.mean(lengths)),
        "median_length": float(np.median(lengths)),
        "longest_history": max(lengths),
    }


@contextmanager
def open_ways(bundle: Bundle, *, num_threads: int) -> Iterator[tuple[dict[str, Recaller], Mapping[int, RunCost]]]:
    """Opens recallers that run a batch padded and in parts, and tells what the second's runs cost, by J."""
    manifest, graphs, catalogue = bundle.manifest, bundle.graphs(), bundle.catalogue()
    index = bundle.index(num_threads=num_threads)
    with ExitStack() as stack:
        backends = {
            name: kind(graphs, manifest.model, num_threads=num_threads)
            for name, kind in ((PADDED, _PaddedBackend), (PARTS, OnnxRuntimeBackend))
        }
        recallers = {
            name: stack.enter_context(
                Recaller(backend, index, catalogue, prompt_tuned=manifest.training.is_prompt_tuned)
            )
            for name, backend in backends.items()
        }
        yield recallers, backends[PARTS].costs


def mixed_cases(recallers: Mapping[str, Recaller], batches: Sequence[Sequence[RecallRequest]]) -> dict[str, Case]:
    """How to time each way, ``SINGLE`` among them, on the batch of a round."""

    def together(recaller: Recaller) -> Case:
        return lambda number: time_recall(recaller, batches[number])

    cases = {name: together(recaller) for name, recaller in recallers.items()}
    return cases | {SINGLE: lambda number: _time_single(recallers[PARTS], batches[number])}


def _time_single(recaller: Recaller, requests: Sequence[RecallRequest]) -> Sample:
    """Times the requests of a batch one after the other, by stage."""
    started = time.perf_counter_ns()
    samples = [time_recall(recaller, [request]) for request in requests]
    total = time.perf_counter_ns() - started
    stages = {stage: sum(sample.stages_ns[stage] for sample in samples) for stage in samples[0].stages_ns}
    stages["merge"] += total - sum(stages.values())
    return Sample(total_ns=total, stages_ns=stages)


def share_of_equal_lists(recaller: Recaller, reference: Recaller, batches: Sequence[Sequence[RecallRequest]]) -> float:
    """Share of requests for which a batched call gives the items, in order, of ``reference`` asked one by one."""
    equal = [
        together.item_ids == alone
        for batch in batches
        for together, alone in zip(recaller.recall_many(batch), lists_alone(reference, batch), strict=True)
    ]
    return float(np.mean(equal))
