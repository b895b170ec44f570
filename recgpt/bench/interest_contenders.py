"""The ways to compute J interests from one checkpoint, side by side, on batches of token rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recgpt.backends.base import Backend, InterestsOutput, Tokens
from recgpt.backends.eager import EagerBackend, model_spec
from recgpt.backends.graph_backend import GraphBackend
from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.backends.tensors import NamedArrays
from recgpt.backends.torch_graphs import Runnable, run_graph
from recgpt.backends.torchscript import TorchScriptBackend
from recgpt.bench.timing import Sample
from recgpt.bundle import Bundle
from recgpt.graphs.modules import Decode, Interests, Prefill
from recgpt.graphs.recall import Graph
from recgpt.graphs.torchscript_writer import write_torchscript
from recgpt.model.checkpoint import Checkpoint
from recgpt.recall.steps import generate_stepwise
from recgpt.signature import GraphSpec

RECOMPUTE = "eager, recompute"
CACHED = "eager, cache"
TORCHSCRIPT = "TorchScript"
COMPILED = "torch.compile"
STEPWISE = "ONNX, stepwise"
FUSED = "ONNX, fused"

Generate = Callable[[Tokens, int], InterestsOutput]


@dataclass(frozen=True, kw_only=True)
class Generators:
    """What generates interests.

    Attributes:
        by_name: the contenders; ``RECOMPUTE`` is the reference.
        missing: why a contender is not among them, by its name.
    """

    by_name: Mapping[str, Generate]
    missing: Mapping[str, str]


@contextmanager
def open_generators(
    bundle: Bundle, checkpoint: Checkpoint, numbers: Sequence[int], *, num_threads: int, is_compiled: bool
) -> Iterator[Generators]:
    """Opens all contenders.

    Args:
        bundle: ONNX graphs.
        checkpoint: what they were exported from.
        numbers: every J.
        num_threads: of PyTorch and of ONNX Runtime.
        is_compiled: whether to try torch.compile, which takes a minute for a new model.
    """
    torch.set_num_threads(num_threads)
    decoder, missing = checkpoint.decoder, {}
    by_name: dict[str, Generate] = {
        RECOMPUTE: EagerBackend(decoder, fused=numbers).interests,
        CACHED: _ModuleBackend(checkpoint, numbers, lambda graph: graph).interests,
    }
    with tempfile.TemporaryDirectory() as folder:
        by_name[TORCHSCRIPT] = _torchscript(checkpoint, numbers, Path(folder)).interests
        if not is_compiled:
            missing[COMPILED] = "left out by --quick: compiling takes longer than all the rest"
        else:
            module_backend = _ModuleBackend(checkpoint, numbers, _compile)
            try:
                for number in numbers:
                    module_backend.interests(_example(checkpoint), number)
            except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
                missing[COMPILED] = str(error).strip().splitlines()[0]
            else:
                by_name[COMPILED] = module_backend.interests
        onnx = OnnxRuntimeBackend(bundle.graphs(), bundle.manifest.model, num_threads=num_threads)
        by_name[STEPWISE] = lambda tokens, number: generate_stepwise(onnx, tokens, number)
        by_name[FUSED] = onnx.interests
        yield Generators(by_name=by_name, missing=missing)
        onnx.close()


def time_generate(generate: Generate, tokens: Tokens, num_interests: int) -> Sample:
    """Times one call, from numpy to numpy."""
    started = time.perf_counter_ns()
    generate(tokens, num_interests)
    return Sample(total_ns=time.perf_counter_ns() - started)


def draw_tokens(checkpoint: Checkpoint, *, batch: int, length: int, seed: int) -> Tokens:
    """Histories of one length, of items as popular as in the training data; each excludes its own items."""
    generator = np.random.default_rng(seed)
    weights = checkpoint.popularity.astype(np.float64)
    shape = (batch, length)
    item_rows = generator.choice(len(weights), size=shape, p=weights / weights.sum())
    return Tokens(
        user_rows=generator.integers(0, checkpoint.decoder.num_users + 1, batch),
        item_rows=item_rows,
        segments=np.zeros(shape, dtype=np.int64),
        lengths=np.full(batch, length, dtype=np.int64),
        excluded=item_rows,
    )


class _ModuleBackend(GraphBackend):
    """The graphs as PyTorch modules, run by what ``prepare`` makes of them."""

    def __init__(self, checkpoint: Checkpoint, numbers: Sequence[int], prepare: Callable[[Graph], Runnable]) -> None:
        super().__init__(model_spec(checkpoint.decoder), numbers)
        graphs = [Interests(checkpoint.decoder, number).eval() for number in numbers]
        self._modules = {graph.spec.name: prepare(graph) for graph in graphs}

    def close(self) -> None:
        """Nothing to let go of."""

    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        return run_graph(self._modules[graph.name], graph, feeds, torch.device("cpu"))


def _torchscript(checkpoint: Checkpoint, numbers: Sequence[int], folder: Path) -> Backend:
    decoder = checkpoint.decoder
    graphs: list[Graph] = [Prefill(decoder), Decode(decoder), *(Interests(decoder, number) for number in numbers)]
    files = {graph.spec.name: folder / f"{graph.spec.name}.pt" for graph in graphs}
    for graph in graphs:
        write_torchscript(graph, files[graph.spec.name])
    return TorchScriptBackend(files, model_spec(decoder))


def _compile(graph: Graph) -> Runnable:
    compiled: Runnable = torch.compile(graph, dynamic=True)
    return compiled


def _example(checkpoint: Checkpoint) -> Tokens:
    return draw_tokens(checkpoint, batch=2, length=3, seed=0)
