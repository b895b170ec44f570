"""The ways to recall from one export, side by side: who is timed, and against whom."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recgpt.backends.base import Backend
from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.backends.triton import TritonBackend
from recgpt.bench.server_statistics import ServerAccount
from recgpt.bench.stages import time_recall, time_served_recall
from recgpt.bench.subject import Subject
from recgpt.bench.timing import Case
from recgpt.bundle import Bundle
from recgpt.client import RecallClient
from recgpt.engine import Engine
from recgpt.one_hop.answering import Recalls
from recgpt.one_hop.graph_codec import GraphCodec
from recgpt.one_hop.remote import RemoteRecall
from recgpt.recall.recaller import Recaller
from recgpt.serving.repository import write_repository
from recgpt.serving.server import TritonServer
from recgpt.signature import DECODE, PREFILL, interests_spec
from recgpt.types import ItemId, RecallRequest

if TYPE_CHECKING:
    from recgpt.model.checkpoint import Checkpoint

EAGER = "eager"
ENGINE = "engine"
STEPWISE = "engine, KV cache"
IN_GRAPH = "engine, in-graph top-k"
TRITON = "Triton"

# A slow machine shall give a slow number, not an error.
TIMEOUT_S = 60.0

Batch = Sequence[RecallRequest]


class Contenders:
    """Recallers over one export, opened together and closed together.

    Attributes:
        recallers: by name; ``eager``, full recompute, first where there is a checkpoint.
        account: of the fused model on the server.
    """

    def __init__(self, recallers: Mapping[str, Recalls], account: ServerAccount) -> None:
        self.recallers = recallers
        self.account = account

    def cases(self, batches: Sequence[Batch]) -> dict[str, Case]:
        """How to time each contender on the batch of a round."""
        return {name: self._case(name, recaller, batches) for name, recaller in self.recallers.items()}

    def identical_lists(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Share of requests for which each contender recalls eager's items in eager's order; {} without eager."""
        if EAGER not in self.recallers:
            return {}
        lists = {name: _recalled(recaller, batches) for name, recaller in self.recallers.items()}
        return {
            name: float(np.mean([ours == eagers for ours, eagers in zip(found, lists[EAGER], strict=True)]))
            for name, found in lists.items()
        }

    def _case(self, name: str, recaller: Recalls, batches: Sequence[Batch]) -> Case:
        if name == TRITON:
            return lambda number: time_served_recall(recaller, batches[number], self.account)
        return lambda number: time_recall(recaller, batches[number])


@contextmanager
def serve(bundle: Bundle) -> Iterator[str]:
    """Runs a Triton server of the bundle's graphs on free ports, and of nothing else; gives its gRPC address."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        write_repository(repository, bundle.graphs(), bundle.manifest.version)
        with TritonServer(repository, log=Path(folder) / "tritonserver.log") as server:
            yield server.url


@contextmanager
def open_contenders(subject: Subject, url: str, *, num_interests: int, num_threads: int) -> Iterator[Contenders]:
    """Opens all contenders.

    Args:
        subject: export and, for eager PyTorch, its weights.
        url: gRPC endpoint of a server of this export's graphs.
        num_interests: J; the bundle has a fused graph for it.
        num_threads: of PyTorch, ONNX Runtime and Faiss in this process.
    """
    bundle = subject.bundle
    with ExitStack() as stack:
        recallers: dict[str, Recalls] = {}
        if subject.checkpoint is not None:
            eager = _eager_backend(subject.checkpoint, num_interests, num_threads)
            recallers[EAGER] = stack.enter_context(_over(eager, bundle, num_threads))
        recallers[ENGINE] = stack.enter_context(Engine.load(bundle.path, num_threads=num_threads))
        recallers[STEPWISE] = stack.enter_context(_over(_stepwise_backend(bundle, num_threads), bundle, num_threads))
        if num_interests in bundle.manifest.recalls:
            recallers[IN_GRAPH] = stack.enter_context(in_graph(bundle, num_threads=num_threads))
        client = RecallClient(url, bundle=bundle.path, timeout_s=TIMEOUT_S, num_threads=num_threads)
        recallers[TRITON] = stack.enter_context(client)
        yield Contenders(recallers, stack.enter_context(open_account(bundle, url, num_interests=num_interests)))


@contextmanager
def open_account(bundle: Bundle, url: str, *, num_interests: int) -> Iterator[ServerAccount]:
    """The counters of the fused graph of J interests, on a connection of their own, so as not to touch a timed one."""
    manifest = bundle.manifest
    observer = TritonBackend(
        url, manifest.model, fused=(), model_version=str(manifest.model_version), timeout_s=TIMEOUT_S
    )
    with closing(observer):
        yield ServerAccount(observer, interests_spec(num_interests).name)


@contextmanager
def in_graph(bundle: Bundle, *, num_threads: int) -> Iterator[RemoteRecall]:
    """Recall by a bundle's graphs that recall, run in this process."""
    needed = {graph.name: bundle.graphs()[graph.name] for graph in (PREFILL, DECODE)}
    graphs = {**needed, **bundle.recall_graphs()}
    with closing(OnnxRuntimeBackend(graphs, bundle.manifest.model, num_threads=num_threads)) as backend:
        yield RemoteRecall(GraphCodec.of(bundle), backend.run)


def draw_batches(bundle: Bundle, *, batch: int, num_batches: int, quotas: tuple[int, ...]) -> list[list[RecallRequest]]:
    """Batches of the bundle's example histories, drawn with replacement; the same ones each time."""
    requests = [
        RecallRequest(history=example.history, user_id=example.user_id, k=sum(quotas), quotas=quotas)
        for example in bundle.examples()
    ]
    drawn = np.random.default_rng(batch).integers(len(requests), size=(num_batches, batch))
    return [[requests[position] for position in row] for row in drawn.tolist()]


def _over(backend: Backend, bundle: Bundle, num_threads: int) -> Recaller:
    prompt_tuned = bundle.manifest.training.is_prompt_tuned
    return Recaller(backend, bundle.index(num_threads=num_threads), bundle.catalogue(), prompt_tuned=prompt_tuned)


def _eager_backend(checkpoint: Checkpoint, num_interests: int, num_threads: int) -> Backend:
    import torch

    from recgpt.backends.eager import EagerBackend

    torch.set_num_threads(num_threads)
    return EagerBackend(checkpoint.decoder, fused=(num_interests,))


def _stepwise_backend(bundle: Bundle, num_threads: int) -> Backend:
    # Without a fused graph, recall goes step by step over prefill and decode.
    graphs = {graph.name: bundle.graphs()[graph.name] for graph in (PREFILL, DECODE)}
    return OnnxRuntimeBackend(graphs, bundle.manifest.model, num_threads=num_threads)


def _recalled(recaller: Recalls, batches: Sequence[Batch]) -> list[tuple[ItemId, ...]]:
    return [answer.item_ids for batch in batches for answer in recaller.recall_many(batch)]
