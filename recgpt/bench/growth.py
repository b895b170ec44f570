"""One catalogue of any size with a model over it, and every way to recall from it: who is timed as catalogues grow."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from recgpt.backends.base import ModelSpec
from recgpt.backends.eager import model_spec
from recgpt.backends.graph_backend import GraphBackend
from recgpt.backends.tensors import NamedArrays
from recgpt.bench.catalogues import item_vectors
from recgpt.config import PAPER_SHAPE
from recgpt.data.ids import IdMap
from recgpt.errors import ConfigError
from recgpt.graphs.modules import Interests
from recgpt.graphs.onnx_writer import MAX_BYTES, Precision, write_onnx
from recgpt.graphs.recall import Graph, Recall
from recgpt.metrics import ann_recall_at_k
from recgpt.model.decoder import Decoder
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.encoding import batch_tokens, encode_request
from recgpt.recall.index import ItemIndex, vectors_digest
from recgpt.recall.index_ann import IndexKind, Neighbours
from recgpt.recall.index_fit import FOUND, fit_neighbours
from recgpt.recall.layout import Layout
from recgpt.recall.padded import pad_rows
from recgpt.recall.recaller import Recaller
from recgpt.signature import GraphSpec, interests_spec, recall_spec
from recgpt.types import Float32Array, Int64Array, RecallRequest

Fitted = tuple[Neighbours, dict[str, Any]]
"""An approximate index, and what it says of itself."""

NUM_INTERESTS = 2
FIT_REQUESTS = 64


@dataclass(frozen=True)
class Way:
    """How to recall: who looks through the catalogue, and how items are searched."""

    layout: Layout
    kind: IndexKind

    @property
    def name(self) -> str:
        """For rows and plots."""
        return f"{_NAMES[self.layout]}, {'exact' if self.kind is IndexKind.FLAT else self.kind}"

    def fits(self, num_items: int, batch: int) -> bool:
        """Whether the scores that its graph holds at once fit into memory."""
        return num_items * batch <= _MAX_SCORES.get(self.layout, math.inf)


_NAMES = {Layout.FUSED: "fused graph", Layout.INDEX: "index in the loop", Layout.GRAPH: "one graph"}
_MAX_SCORES = {Layout.FUSED: 512_000_000, Layout.GRAPH: 64_000_000}

REFERENCE = Way(Layout.FUSED, IndexKind.FLAT)
WAYS = (REFERENCE, Way(Layout.GRAPH, IndexKind.FLAT), *(Way(Layout.INDEX, kind) for kind in IndexKind))
LIGHT_WAYS = (Way(Layout.INDEX, IndexKind.FLAT), Way(Layout.INDEX, IndexKind.IVF_PQ))

# From here on only the light ways. Graphs that look through the catalogue would need it twice more, as it is stored and
# as it is computed with (ten million items: beyond 24 GB); the other indexes as much memory again, or hours.
_HUGE = 5_000_000


def ways(num_items: int) -> tuple[Way, ...]:
    """How to recall from so many items; the first is what the others are compared with."""
    return WAYS if num_items < _HUGE else LIGHT_WAYS


def grown_precision(num_items: int) -> Precision | None:
    """In which numbers the graphs hold so many items: the first for which a file has room, None if it has for none."""
    num_bytes = {Precision.INT8: 4 + 1, Precision.FLOAT16: 2}
    fitting = (p for p, size in num_bytes.items() if size * num_items * PAPER_SHAPE.hidden_size < MAX_BYTES)
    return next(fitting, None)


@dataclass(frozen=True, kw_only=True)
class Grown:
    """A catalogue of generated vectors and a decoder of random weights over it, its graphs on disk.

    Attributes:
        vectors: (V, D) float32 unit vectors.
        spec: sizes of the decoder.
        files: the graphs.
    """

    vectors: Float32Array
    spec: ModelSpec
    files: Mapping[str, Path]

    @staticmethod
    def make(num_items: int, folder: Path) -> Grown:
        """Draws the vectors, and exports the graphs unless those of this model are in the folder already.

        ConfigError if no file has room for so many items.
        """
        precision = grown_precision(num_items)
        if precision is None:
            raise ConfigError(f"{num_items} items: expected no more than have room in an ONNX file, {MAX_BYTES} bytes")
        decoder = grown_decoder(num_items)
        vectors: Float32Array = decoder.item_embedding.weight[1:].detach().numpy()
        model = hashlib.sha256(f"{decoder.config} {vectors_digest(vectors)}".encode()).hexdigest()[:16]
        files = {}
        layouts = {way.layout for way in ways(num_items)}
        graphs: list[Graph] = [Interests(decoder, 1)]
        graphs += [Interests(decoder, NUM_INTERESTS)] if Layout.FUSED in layouts else []
        graphs += [Recall(decoder, NUM_INTERESTS)] if Layout.GRAPH in layouts else []
        for graph in graphs:
            path = folder / f"{num_items}-{model}" / f"{graph.spec.name}.onnx"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_onnx(graph, path, metadata={}, precision=precision)
            files[path.stem] = path
        return Grown(vectors=vectors, spec=model_spec(decoder), files=files)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Ids that are the rows."""
        num_items = self.spec.num_items
        popularity = np.zeros(num_items + 1, dtype=np.int64)
        return Catalogue(item_ids=IdMap(range(1, num_items + 1)), user_ids=IdMap([1]), popularity=popularity)

    def requests(self, number: int, *, seed: int) -> list[RecallRequest]:
        """For 100 items by quotas (90, 10), with histories of 3 to 30 items."""
        generator = np.random.default_rng(seed)
        lengths = generator.integers(3, 31, number)
        histories = [generator.integers(1, self.spec.num_items + 1, length).tolist() for length in lengths]
        return [RecallRequest(history=history, k=FOUND, quotas=(90, 10)) for history in histories]


def grown_decoder(num_items: int) -> Decoder:
    """A decoder of the paper's shape: generated item vectors, one user, all other weights random; always the same."""
    vectors = item_vectors(num_items, PAPER_SHAPE.hidden_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = Decoder(PAPER_SHAPE, num_items=num_items, num_users=1).eval()
    with torch.no_grad():
        decoder.item_embedding.weight[1:] = torch.from_numpy(vectors)
    return decoder


class Indexes:
    """The indexes of one catalogue at some number of threads.

    Args:
        grown: the catalogue.
        num_threads: of one search.
        fitted: approximate indexes, and what each says of itself, ``build_s`` among it; those that are missing are
            built when they are asked for, and put here.
    """

    def __init__(self, grown: Grown, num_threads: int, fitted: dict[IndexKind, Fitted]) -> None:
        self.grown = grown
        self.num_threads = num_threads
        self._fitted = fitted
        self._backends: dict[Layout, SessionBackend] = {}
        self.reference = ways(grown.spec.num_items)[0]
        padding = np.zeros((1, grown.spec.hidden_size), dtype=np.float32)
        self._flat = ItemIndex.build(np.concatenate([padding, grown.vectors]), num_threads=num_threads)

    def __getitem__(self, kind: IndexKind) -> ItemIndex:
        return self._flat if kind is IndexKind.FLAT else self._flat.approximate(self._fit(kind)[0])

    def backend(self, layout: Layout) -> SessionBackend:
        """The graphs of a layout, loaded once."""
        if layout not in self._backends:
            self._backends[layout] = SessionBackend(self.grown, layout, num_threads=self.num_threads)
        return self._backends[layout]

    def facts(self, kind: IndexKind) -> dict[str, Any]:
        """What an index says of itself; nothing where it is exact."""
        return {} if kind is IndexKind.FLAT else self._fit(kind)[1]

    def recalls(self, kinds: Iterable[IndexKind], requests: Sequence[RecallRequest]) -> dict[IndexKind, float]:
        """``ann_recall_at_k`` at 100 for the interests of requests, their histories excluded."""
        queries, excluded = self._queries(requests)
        expected, _ = self._flat.search(queries, FOUND, excluded=excluded)
        return {
            kind: ann_recall_at_k(self[kind].search(queries, FOUND, excluded=excluded)[0], expected) for kind in kinds
        }

    def _fit(self, kind: IndexKind) -> Fitted:
        if kind not in self._fitted:
            started = time.perf_counter()
            queries, _ = self._queries(self.grown.requests(FIT_REQUESTS, seed=1))
            neighbours, facts = fit_neighbours(self._flat, kind, queries)
            self._fitted[kind] = neighbours, facts | {"build_s": time.perf_counter() - started}
        return self._fitted[kind]

    def _queries(self, requests: Sequence[RecallRequest]) -> tuple[Float32Array, Int64Array]:
        """Interests (N J, D) by the reference's graph, and the rows (N J, E) of each one's history."""
        spec, backend = self.grown.spec, self.backend(self.reference.layout)
        number = max(backend.fused)
        encoded = [encode_request(request, self.grown.catalogue, prompt_tuned=True) for request in requests]
        tokens = batch_tokens(encoded, max_history=spec.max_length - (NUM_INTERESTS - 1))
        interests = backend.interests(tokens, number).interests
        excluded = np.repeat(pad_rows([sorted(request.excluded) for request in encoded]), number, axis=0)
        return interests.reshape(-1, spec.hidden_size), excluded


def open_way(way: Way, grown: Grown, indexes: Indexes) -> Recaller:
    """A recaller with only the graphs that its layout needs."""
    backend, index = indexes.backend(way.layout), indexes[way.kind]
    return Recaller(backend, index, grown.catalogue, prompt_tuned=True, layout=way.layout, in_graph=backend)


class SessionBackend(GraphBackend):
    """The graph that a layout needs; the engine's backend wants ``prefill`` and ``decode`` as well."""

    def __init__(self, grown: Grown, layout: Layout, *, num_threads: int) -> None:
        fused, recalls = {
            Layout.FUSED: ((NUM_INTERESTS,), {}),
            Layout.INDEX: ((1,), {}),
            Layout.GRAPH: ((), {NUM_INTERESTS: FOUND}),
        }[layout]
        super().__init__(grown.spec, fused, recalls)
        needed = {interests_spec(number).name for number in fused} | {recall_spec(number).name for number in recalls}
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads, options.intra_op_num_threads = 1, num_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._sessions = {
            name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            for name, path in grown.files.items()
            if name in needed
        }

    def close(self) -> None:
        """Lets go of the sessions."""
        self._sessions = {}

    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        names = [tensor.name for tensor in graph.outputs]
        return dict(zip(names, self._sessions[graph.name].run(names, feeds), strict=True))
