"""The ways to lay recall out between a server and its client, and models that do nothing, which are their floor."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from recgpt.backends.triton import TritonBackend
from recgpt.bench.contenders import TIMEOUT_S, Batch, in_graph
from recgpt.bench.server_statistics import ServerAccount
from recgpt.bundle import Bundle
from recgpt.client import RecallClient
from recgpt.engine import Engine
from recgpt.errors import BundleError
from recgpt.one_hop.answering import Recalls
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

    def lists(self, batches: Sequence[Batch]) -> list[Candidates]:
        """All answers."""
        return [answer for batch in batches for answer in self.recaller.recall_many(batch)]


class Empty:
    """Sends as much as a history and gets it back.

    Args:
        infer: asks a server.
        name: of the model that does nothing.
    """

    def __init__(self, infer: Infer, name: str) -> None:
        self._infer = infer
        self._spec = _empty_spec(name)

    def recall_many(self, requests: Iterable[RecallRequest]) -> list[Candidates]:
        """Asks, and recalls nothing."""
        self._infer(self._spec, {"given": np.ones((len(list(requests)), _EMPTY_WIDTH), dtype=np.int64)})
        return []


@contextmanager
def open_layouts(bundle: Bundle, *, num_interests: int, num_threads: int) -> Iterator[dict[str, Layout]]:
    """Starts a Triton server on free ports with all that the layouts need, and connects each to it.

    Args:
        bundle: an export in ONNX, with graphs of J interests and of J quotas.
        num_interests: J.
        num_threads: of ONNX Runtime and Faiss in this process; the server's models name theirs.

    Raises:
        BundleError: the bundle has no graph that recalls, or its ids cannot cross the wire.
    """
    engine = EngineFiles.of(bundle)
    if engine is None or num_interests not in bundle.manifest.recalls:
        raise BundleError(f"{bundle.path} has no graph that recalls by {num_interests} quotas; export it again")
    manifest = bundle.manifest
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        graphs = {**bundle.graphs(), **bundle.recall_graphs()}
        write_repository(folder / "models", graphs, manifest.model_version, engine=engine)
        _write_empty(folder / "models", manifest.version)
        server = stack.enter_context(TritonServer(folder / "models", log=folder / "tritonserver.log"))
        client = RecallClient(server.url, bundle=bundle.path, timeout_s=TIMEOUT_S, num_threads=num_threads)
        asked, observer = (
            stack.enter_context(
                closing(
                    TritonBackend(
                        server.url, manifest.model, fused=(), model_version=str(manifest.version), timeout_s=TIMEOUT_S
                    )
                )
            )
            for _ in range(2)
        )
        yield {
            IN_PROCESS: Layout(recaller=stack.enter_context(Engine.load(bundle.path, num_threads=num_threads))),
            GRAPH_IN_PROCESS: Layout(recaller=stack.enter_context(in_graph(bundle, num_threads=num_threads))),
            CLIENT_INDEX: Layout(
                recaller=stack.enter_context(client),
                account=ServerAccount(observer, interests_spec(num_interests).name),
            ),
            GRAPH: Layout(
                recaller=RemoteRecall(GraphCodec.of(bundle), asked.run),
                account=ServerAccount(observer, recall_spec(num_interests).name),
            ),
            ENGINE: Layout(
                recaller=RemoteRecall(EngineCodec.of(bundle.catalogue()), asked.run),
                account=ServerAccount(observer, engine.name),
            ),
            EMPTY_ONNX: _empty_layout(asked, observer, "empty_onnx"),
            EMPTY_PYTHON: _empty_layout(asked, observer, "empty_python"),
        }


def _empty_layout(asked: TritonBackend, observer: TritonBackend, name: str) -> Layout:
    return Layout(recaller=Empty(asked.run, name), account=ServerAccount(observer, name), recalls=False)


def _empty_spec(name: str) -> GraphSpec:
    given, same = (TensorSpec(tensor, INT64, ("B", "N")) for tensor in ("given", "same"))
    return GraphSpec(name=name, inputs=(given,), outputs=(same,))


def _write_empty(repository: Path, version: int) -> None:
    """Puts the two models that give back what they get into a repository."""
    by_onnx, by_python = _empty_spec("empty_onnx"), _empty_spec("empty_python")
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
