"""What can use a GPU here, and the ways from histories to found items on one."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from recgpt.backends.base import Tokens
from recgpt.backends.onnxruntime import CPU, CUDA, EXACT, REPLAYED, OnnxRuntimeBackend
from recgpt.backends.onnxruntime_bound import BoundInterests
from recgpt.bundle import Bundle
from recgpt.errors import DependencyError
from recgpt.extras import require
from recgpt.model.checkpoint import Checkpoint
from recgpt.recall.index_gpu import GpuSearcher
from recgpt.signature import interests_spec
from recgpt.types import Int64Array

LIBRARIES = ("torch", "onnxruntime", "faiss")
REFERENCE = "ONNX and Faiss, CPU"
EAGER = "PyTorch, GPU"
HOST = "ONNX and Faiss, GPU, interests through main memory"
BOUND = "the same, interests stay on the GPU"
GRAPH = "the same, kernels replayed (CUDA graph)"

Find = Callable[[Tokens], Int64Array]
"""A batch to what Faiss finds for its interests: places (B * J, k), best first."""


@functools.cache
def missing_for(library: str) -> str:
    """Why a library cannot use a GPU here; empty if it can."""
    try:
        module = require(library)
    except DependencyError as error:
        return str(error)
    if library == "torch":
        return "" if module.cuda.is_available() else "PyTorch sees no GPU"
    if library == "faiss":
        return "" if module.get_num_gpus() > 0 else "Faiss sees no GPU, or is built without"
    providers = module.get_available_providers()
    return "" if CUDA in providers else f"ONNX Runtime has no CUDA execution provider, only {', '.join(providers)}"


@contextmanager
def open_gpu_ways(
    bundle: Bundle, checkpoint: Checkpoint, *, num_interests: int, k: int
) -> Iterator[tuple[dict[str, Find], dict[str, str]]]:
    """The ways that can be had here by name, ``REFERENCE`` first, and why each other one cannot.

    Args:
        bundle: of float32 or float16; 8-bit products run on the CPU.
        checkpoint: what it was exported from.
        num_interests: J; the bundle has a fused graph for it.
        k: how many items to find for each interest.
    """
    missing = {library: missing_for(library) for library in LIBRARIES}
    spec, graphs, index = bundle.manifest.model, bundle.graphs(), bundle.index(num_threads=1)
    flat = require("faiss").IndexFlatIP(index.size)
    flat.add(index.vectors())
    ways: dict[str, Find] = {}
    skipped: dict[str, str] = {}
    with ExitStack() as stack:

        def through_host(interests: Callable[..., Any], searcher: Any) -> Find:
            return lambda tokens: searcher.search(
                interests(tokens, num_interests).interests.reshape(-1, index.size), k
            )[1]

        on_cpu = OnnxRuntimeBackend(graphs, spec, providers=[CPU])
        stack.callback(on_cpu.close)
        ways[REFERENCE] = through_host(on_cpu.interests, flat)
        if missing["torch"]:
            skipped[EAGER] = missing["torch"]
        else:
            ways[EAGER] = through_host(_eager(checkpoint, num_interests), flat)
        if reasons := "; ".join(filter(None, (missing["onnxruntime"], missing["faiss"]))):
            skipped |= dict.fromkeys((HOST, BOUND, GRAPH), reasons)
        else:
            searcher = GpuSearcher(flat)
            on_gpu = OnnxRuntimeBackend(graphs, spec, providers=[CUDA, CPU])
            stack.callback(on_gpu.close)
            ways[HOST] = through_host(on_gpu.interests, searcher)
            for name, options in ((BOUND, EXACT), (GRAPH, REPLAYED)):
                ways[name] = _on_device(bundle, num_interests, options, searcher, k)
        yield ways, skipped


def _eager(checkpoint: Checkpoint, num_interests: int) -> Callable[..., Any]:
    from recgpt.backends.eager import EagerBackend

    # The checkpoint's own decoder stays where it is.
    return EagerBackend(copy.deepcopy(checkpoint.decoder).to("cuda"), fused=(num_interests,)).interests


def _on_device(bundle: Bundle, num_interests: int, options: Mapping[str, str], searcher: GpuSearcher, k: int) -> Find:
    graph = interests_spec(num_interests)
    session = require("onnxruntime").InferenceSession(
        str(bundle.graphs()[graph.name]), providers=[(CUDA, dict(options)), CPU]
    )
    runner = BoundInterests(session, graph, bundle.manifest.model, device="cuda")

    def find(tokens: Tokens) -> Int64Array:
        with runner.run(tokens) as (interests, _):
            return searcher.search(interests, k)[1]

    return find
