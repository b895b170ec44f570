"""The ways to lay recall out between a server and its client, and models that do nothing, which are their floor."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from recgpt.backends.tensors import NamedArrays
from recgpt.backends.triton import TritonBackend
from recgpt.bench.contenders import TIMEOUT_S, in_graph
from recgpt.bench.server_statistics import ServerAccount
from recgpt.bundle import Bundle
from recgpt.client import RecallClient
from recgpt.engine import Engine
from recgpt.errors import BundleError
from recgpt.one_hop.answering import Recalls
from recgpt.one_hop.engine_codec import MODEL as ENGINE_MODEL
from recgpt.one_hop.engine_codec import EngineCodec
from recgpt.one_hop.graph_codec import GraphCodec
from recgpt.one_hop.remote import Infer, RemoteRecall
from recgpt.serving.engine_files import EngineFiles
from recgpt.serving.repository import CONFIG, engine_configs, model_config, write_repository
from recgpt.serving.server import TritonServer
from recgpt.signature import INT64, GraphSpec, TensorSpec, interests_spec, recall_spec
from recgpt.types import Candidates, RecallRequest

IN_PROCESS = "engine, in process"
GRAPH_IN_PROCESS = "recall graph, in process"
CLIENT_INDEX = "index in the client"
GRAPH = "recall graph"
ENGINE = "recall_engine"
EMPTY_ONNX = "empty, ONNX Runtime"
EMPTY_PYTHON = "empty, Python"
_EMPTY_MODELS = {EMPTY_ONNX: "empty_onnx", EMPTY_PYTHON: "empty_python"}

# Graphs of a million items take their time to load, each in a process of its own.
READY_S = 300.0

# As a history of the usual length is padded.
_EMPTY_WIDTH = 16

_EMPTY_PROGRAM = """\
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        arrays = [pb_utils.get_input_tensor_by_name(request, "given").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("same", array)]) for array in arrays]
"""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to recall.

    Attributes:
        recaller: recalls that way.
        account: of the model on the server that it asks; None in process.
        recalls: whether it recalls at all.
    """

    recaller: Recalls
    account: ServerAccount | None = None
    recalls: bool = True


class Empty:
    """Sends as much as a history and gets it back.

    Args:
        infer: asks a server.
        name: of the layout that recalls nothing.
    """

    def __init__(self, infer: Infer, name: str) -> None:
        self._infer = infer
        self._name = name

    def recall_many(self, requests: Iterable[RecallRequest]) -> list[Candidates]:
        """Asks, and recalls nothing."""
        self._infer(*empty_call(self._name, len(list(requests))))
        return []


@contextmanager
def serve_layouts(bundle: Bundle, *, num_interests: int) -> Iterator[TritonServer]:
    """Starts a Triton server on free ports with all that the layouts need.

    Args:
        bundle: an export in ONNX, with graphs of J interests and of J quotas.
        num_interests: J.

    Raises:
        BundleError: the bundle has no graph that recalls, or its ids cannot cross the wire.
    """
    engine = EngineFiles.of(bundle)
    if engine is None or num_interests not in bundle.manifest.recalls:
        raise BundleError(f"{bundle.path} has no graph that recalls by {num_interests} quotas; export it again")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_repository(folder / "models", bundle.served_graphs(), bundle.manifest.model_version, engine=engine)
        _write_empty(folder / "models", bundle.manifest.version)
        with TritonServer(folder / "models", log=folder / "tritonserver.log", ready_timeout_s=READY_S) as server:
            yield server


@contextmanager
def open_layouts(bundle: Bundle, *, num_interests: int, num_threads: int) -> Iterator[dict[str, Layout]]:
    """Starts a server as ``serve_layouts`` does, errors too, and connects each layout as ``connect_layouts``."""
    with (
        serve_layouts(bundle, num_interests=num_interests) as server,
        connect_layouts(bundle, server.url, num_interests=num_interests, num_threads=num_threads) as layouts,
    ):
        yield layouts


@contextmanager
def connect_layouts(bundle: Bundle, url: str, *, num_interests: int, num_threads: int) -> Iterator[dict[str, Layout]]:
    """Connects each layout to a server.

    Args:
        bundle: that is served.
        url: of a server that ``serve_layouts`` started.
        num_interests: J.
        num_threads: of ONNX Runtime and Faiss in this process; the server's models name theirs.
    """
    with ExitStack() as stack:
        client = RecallClient(url, bundle=bundle.path, timeout_s=TIMEOUT_S, num_threads=num_threads)
        asked, observer = (stack.enter_context(closing(_backend(bundle, url))) for _ in range(2))
        accounts = _accounts(observer, num_interests)
        yield {
            IN_PROCESS: Layout(recaller=stack.enter_context(Engine.load(bundle.path, num_threads=num_threads))),
            GRAPH_IN_PROCESS: Layout(recaller=stack.enter_context(in_graph(bundle, num_threads=num_threads))),
            CLIENT_INDEX: Layout(recaller=stack.enter_context(client), account=accounts[CLIENT_INDEX]),
            GRAPH: Layout(recaller=RemoteRecall(GraphCodec.of(bundle), asked.run), account=accounts[GRAPH]),
            ENGINE: Layout(
                recaller=RemoteRecall(EngineCodec.of(bundle.catalogue()), asked.run), account=accounts[ENGINE]
            ),
            **{
                name: Layout(recaller=Empty(asked.run, name), account=accounts[name], recalls=False)
                for name in _EMPTY_MODELS
            },
        }


@contextmanager
def open_accounts(bundle: Bundle, url: str, *, num_interests: int) -> Iterator[dict[str, ServerAccount]]:
    """The counters of the model that each layout asks, on a connection of their own."""
    with closing(_backend(bundle, url)) as observer:
        yield _accounts(observer, num_interests)


def empty_call(name: str, batch: int) -> tuple[GraphSpec, NamedArrays]:
    """What a layout that recalls nothing asks for so many requests: the model, and its inputs."""
    return _empty_spec(_EMPTY_MODELS[name]), {"given": np.ones((batch, _EMPTY_WIDTH), dtype=np.int64)}


def _backend(bundle: Bundle, url: str) -> TritonBackend:
    manifest = bundle.manifest
    return TritonBackend(url, manifest.model, fused=(), model_version=str(manifest.model_version), timeout_s=TIMEOUT_S)


def _accounts(observer: TritonBackend, num_interests: int) -> dict[str, ServerAccount]:
    models = {
        CLIENT_INDEX: interests_spec(num_interests).name,
        GRAPH: recall_spec(num_interests).name,
        ENGINE: ENGINE_MODEL,
        **_EMPTY_MODELS,
    }
    return {name: ServerAccount(observer, model) for name, model in models.items()}


def _empty_spec(name: str) -> GraphSpec:
    given, same = (TensorSpec(tensor, INT64, ("B", "N")) for tensor in ("given", "same"))
    return GraphSpec(name=name, inputs=(given,), outputs=(same,))


def _write_empty(repository: Path, version: int) -> None:
    """Puts the two models that give back what they get into a repository."""
    by_onnx, by_python = (_empty_spec(_EMPTY_MODELS[name]) for name in (EMPTY_ONNX, EMPTY_PYTHON))
    configs = {by_onnx.name: model_config(by_onnx, {}), by_python.name: engine_configs(by_python)[CONFIG]}
    for name, config in configs.items():
        (repository / name / str(version)).mkdir(parents=True)
        (repository / name / CONFIG).write_text(config)
    (repository / by_python.name / str(version) / "model.py").write_text(_EMPTY_PROGRAM)
    given, same = (
        onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.INT64, ["B", "N"]) for tensor in ("given", "same")
    )
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["given"], ["same"])], "empty", [given], [same])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, repository / by_onnx.name / str(version) / "model.onnx")
