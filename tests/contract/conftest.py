"""Two models, exported once a session, and every way to run them.

A new backend joins by an entry in ``BACKENDS``: a context manager that takes the decoder and the folder of its graphs
(``prefill.onnx``, ``decode.onnx``, ``interests_1.onnx``, ``interests_3.onnx``, ``recall_1.onnx``, ``recall_3.onnx``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from recgpt.backends.base import Backend
from recgpt.backends.eager import EagerBackend, model_spec
from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.backends.torchscript import TorchScriptBackend
from recgpt.backends.triton import TritonBackend
from recgpt.config import ModelConfig
from recgpt.graphs.modules import Decode, Interests, Prefill
from recgpt.graphs.onnx_writer import write_onnx
from recgpt.graphs.recall import Graph, Recall, ScannedRecall
from recgpt.graphs.torchscript_writer import write_torchscript
from recgpt.model.decoder import Decoder
from recgpt.serving.repository import write_repository
from recgpt.serving.server import TritonServer

NUM_ITEMS, NUM_USERS, MAX_LENGTH = 200, 10, 12
NUM_INTERESTS = 3
FUSED = (1, NUM_INTERESTS)
MAX_RECALLED = 12
NUM_TWINS = 20  # the last rows of the catalogue repeat the vectors of the first

SIZES = {"max_length": MAX_LENGTH, "hidden_size": 16, "num_heads": 2, "ffn_size": 32}
MODELS = {
    "one_block_tied": ModelConfig(num_blocks=1, tied=True, **SIZES),
    "three_blocks_untied": ModelConfig(num_blocks=3, tied=False, activation="relu", attention_scale="model", **SIZES),
}


@dataclass(frozen=True)
class Exported:
    """A decoder and the folder of its graphs."""

    decoder: Decoder
    folder: Path


def graphs_of(decoder: Decoder) -> list[Graph]:
    recalls = (Recall(decoder, number, max_recalled=MAX_RECALLED) for number in FUSED)
    return [Prefill(decoder), Decode(decoder), *(Interests(decoder, number) for number in FUSED), *recalls]


def graph_files(folder: Path, suffix: str) -> dict[str, Path]:
    return {path.stem: path for path in folder.glob(f"*{suffix}")}


def eager(decoder: Decoder, folder: Path) -> AbstractContextManager[Backend]:
    return closing(EagerBackend(decoder, fused=FUSED, recalls=FUSED))


def onnxruntime(decoder: Decoder, folder: Path) -> AbstractContextManager[Backend]:
    return closing(OnnxRuntimeBackend(graph_files(folder, ".onnx"), model_spec(decoder), num_threads=1))


@contextmanager
def scanning(decoder: Decoder, folder: Path) -> Iterator[Backend]:
    """ONNX Runtime, with graphs that scan for any batch and any list, though the catalogue is small."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("recall.scan", "graphs.operators", "graphs.recall"):
            patch.setattr(f"recgpt.{module}.BLOCK", 8)
        for module in ("backends.graph_backend", "backends.onnxruntime"):
            patch.setattr(f"recgpt.{module}.MIN_SCANNED", 1)
        patch.setattr("recgpt.recall.scan._MIN_ITEMS_PER_FOUND", NUM_ITEMS // MAX_RECALLED)
        scans = [ScannedRecall(decoder, number, max_recalled=MAX_RECALLED) for number in FUSED]
        files = {scan.spec.name: folder / "scans" / f"{scan.spec.name}.onnx" for scan in scans}
        (folder / "scans").mkdir()
        for scan in scans:
            write_onnx(scan, files[scan.spec.name], metadata={})
        graphs = graph_files(folder, ".onnx") | files
        with closing(OnnxRuntimeBackend(graphs, model_spec(decoder), num_threads=1)) as made:
            yield made


def torchscript(decoder: Decoder, folder: Path) -> AbstractContextManager[Backend]:
    for graph in graphs_of(decoder)[:-2]:  # recall_J relies on ONNX's rule for ties
        write_torchscript(graph, folder / f"{graph.spec.name}.pt")
    return closing(TorchScriptBackend(graph_files(folder, ".pt"), model_spec(decoder)))


@contextmanager
def triton(decoder: Decoder, folder: Path) -> Iterator[Backend]:
    write_repository(folder / "models", graph_files(folder, ".onnx"), 1)
    with TritonServer(folder / "models", log=folder / "tritonserver.log") as server:
        made = TritonBackend(
            server.url,
            model_spec(decoder),
            fused=FUSED,
            recalls=dict.fromkeys(FUSED, MAX_RECALLED),
            model_version="1",
            timeout_s=60.0,
        )
        with closing(made):
            yield made


BACKENDS: dict[str, Callable[[Decoder, Path], AbstractContextManager[Backend]]] = {
    "eager": eager,
    "onnxruntime": onnxruntime,
    "scanning": scanning,
    "torchscript": torchscript,
    "triton": triton,
}


def random_decoder(config: ModelConfig) -> Decoder:
    """Weights so large that every input changes the outputs; padding's vectors would win if they were not masked."""
    torch.manual_seed(0)
    decoder = Decoder(config, num_items=NUM_ITEMS, num_users=NUM_USERS)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        for table in filter(None, (decoder.item_embedding, decoder.output)):
            table.weight[0] = 5.0
            table.weight[-NUM_TWINS:] = table.weight[1 : NUM_TWINS + 1]
    return decoder.eval()


@pytest.fixture(scope="session")
def exports() -> dict[str, Exported]:
    """What was exported so far: pytest makes a parametrised fixture anew at each change of parameter."""
    return {}


@pytest.fixture(scope="session", params=MODELS)
def exported(
    request: pytest.FixtureRequest, exports: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    if request.param not in exports:
        decoder, folder = random_decoder(MODELS[request.param]), tmp_path_factory.mktemp(request.param)
        for graph in graphs_of(decoder):
            write_onnx(graph, folder / f"{graph.spec.name}.onnx", metadata={"made_by": "the contract suite"})
        exports[request.param] = Exported(decoder, folder)
    return exports[request.param]


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest, exported: Exported) -> Iterator[Backend]:
    with BACKENDS[request.param](exported.decoder, exported.folder) as made:
        yield made
