"""The same answers on a GPU as on the CPU: graphs, replayed graphs, search, and all of it together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tiny_model import random_checkpoint, random_requests

from recgpt.backends.eager import EagerBackend
from recgpt.backends.onnxruntime import CPU, CUDA, EXACT, REPLAYED, OnnxRuntimeBackend
from recgpt.backends.onnxruntime_bound import BoundInterests
from recgpt.bench.gpu import missing_for
from recgpt.bundle import Bundle
from recgpt.eager import eager_recaller, item_matrix
from recgpt.engine import Engine
from recgpt.graphs.export import export_bundle, onnx_format
from recgpt.graphs.onnx_writer import Precision
from recgpt.graphs.parity import compare_interests, random_batches
from recgpt.recall.index import ItemIndex
from recgpt.recall.index_gpu import MAX_FETCH, GpuSearcher
from recgpt.signature import interests_spec

pytestmark = pytest.mark.gpu

# float32 sums in another order, of values of about 1.
TOLERANCE = 1e-3


@pytest.fixture(scope="module", params=[Precision.FLOAT32, Precision.FLOAT16])
def bundle(request, tmp_path_factory):
    if reason := missing_for("onnxruntime"):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("gpu") / "bundle"
    export_bundle(random_checkpoint(), folder, onnx_format(request.param), num_interests=(1, 2), say=lambda line: None)
    return Bundle.open(folder)


def test_pytorch_on_the_gpu_gives_the_interests_of_the_cpu(needs):
    needs("torch")
    decoder = random_checkpoint().decoder
    on_cpu, on_gpu = EagerBackend(decoder, fused=(2,)), EagerBackend(decoder.to("cuda"), fused=(2,))
    for tokens in random_batches(on_cpu.spec, max_interests=2):
        report = compare_interests(
            tokens, on_cpu.interests(tokens, 2), on_gpu.interests(tokens, 2), item_matrix=item_matrix(decoder)
        )
        report.require(TOLERANCE)


def test_graphs_on_cuda_give_the_interests_of_the_cpu(needs, bundle):
    needs("onnxruntime")
    graphs, spec = bundle.graphs(), bundle.manifest.model
    on_cpu, on_gpu = (OnnxRuntimeBackend(graphs, spec, providers=chosen) for chosen in ([CPU], [CUDA, CPU]))
    assert on_gpu.provider == CUDA
    matrix = np.concatenate([np.zeros((1, spec.hidden_size), dtype=np.float32), bundle.index().vectors()])
    for tokens in random_batches(spec, max_interests=2):
        expected, found = on_cpu.interests(tokens, 2), on_gpu.interests(tokens, 2)
        compare_interests(tokens, expected, found, item_matrix=matrix).require(TOLERANCE)


@pytest.mark.parametrize("options", [EXACT, REPLAYED], ids=["bound", "replayed"])
def test_interests_stay_on_the_gpu_and_faiss_searches_them_there(needs, bundle, options):
    needs("onnxruntime", "faiss")
    import faiss
    import onnxruntime

    spec, index = bundle.manifest.model, bundle.index()
    session = onnxruntime.InferenceSession(str(bundle.graphs()["interests_2"]), providers=[(CUDA, dict(options)), CPU])
    runner = BoundInterests(session, interests_spec(2), spec, device="cuda")
    on_cpu = OnnxRuntimeBackend(bundle.graphs(), spec, providers=[CPU])
    flat = faiss.IndexFlatIP(index.size)
    flat.add(index.vectors())
    searcher = GpuSearcher(flat)
    # Every shape several times: recorded at the first, replayed at the others, with other values each time.
    for seed in range(3):
        for tokens in random_batches(spec, max_interests=2, seed=seed):
            expected = on_cpu.interests(tokens, 2)
            with runner.run(tokens) as (interests, generated):
                scores, _ = searcher.search(interests, 10)
            np.testing.assert_array_equal(generated, expected.generated_rows)
            best, _ = flat.search(expected.interests.reshape(-1, spec.hidden_size), 10)
            np.testing.assert_allclose(scores, best, rtol=0, atol=TOLERANCE * np.abs(best).max())


def test_recall_with_graphs_and_index_on_the_gpu_gives_the_lists_of_the_cpu(needs, bundle):
    needs("onnxruntime", "faiss")
    requests = random_requests(64)
    with Engine.load(bundle.path, providers=[CUDA, CPU]) as gpu, Engine.load(bundle.path, providers=[CPU]) as cpu:
        equal = [
            found.item_ids == expected.item_ids
            for found, expected in zip(gpu.recall_many(requests), cpu.recall_many(requests), strict=True)
        ]
    assert np.mean(equal) > 0.95


def test_what_was_seen_is_never_recalled_though_the_gpu_index_knows_no_selectors(needs):
    needs("faiss")
    recaller = eager_recaller(random_checkpoint())
    requests = [request for request in random_requests(40) if request.filter_seen and request.segments is None]
    for request, answer in zip(requests, recaller.recall_many(requests), strict=True):
        assert len(set(answer.item_ids)) == request.k
        assert not set(answer.item_ids) & set(request.history)


def test_more_than_a_gpu_index_looks_up_is_looked_up_on_the_cpu(needs):
    needs("faiss")
    matrix = np.random.default_rng(0).standard_normal((MAX_FETCH + 500, 8)).astype(np.float32)
    rows, _ = ItemIndex.build(matrix).search(matrix[:2], MAX_FETCH + 100)
    assert rows.shape == (2, MAX_FETCH + 100)
    assert all(len(set(found)) == len(found) for found in rows.tolist())


def test_threads_search_at_the_same_time(needs):
    needs("faiss")
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((5001, 32)).astype(np.float32)
    index = ItemIndex.build(matrix)
    batches = [generator.standard_normal((7, 32)).astype(np.float32) for _ in range(200)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda queries: index.search(queries, 10), batches))
    for queries, (_, scores) in zip(batches, answers, strict=True):
        best = -np.sort(-(queries @ matrix[1:].T), axis=1)[:, :10]
        np.testing.assert_allclose(scores, best, rtol=0, atol=1e-3)
