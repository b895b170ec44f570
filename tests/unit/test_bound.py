"""Bound memory and device addresses, with main memory in the place of a GPU's."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from tiny_model import MAX_LENGTH, NUM_ITEMS, NUM_USERS, random_checkpoint

from recgpt.backends.base import Tokens
from recgpt.backends.eager import EagerBackend, model_spec
from recgpt.backends.onnxruntime import CPU
from recgpt.backends.onnxruntime_bound import BoundInterests, filled_up
from recgpt.eager import item_matrix
from recgpt.graphs.modules import Interests
from recgpt.graphs.onnx_writer import Precision, write_onnx
from recgpt.recall.index import ItemIndex
from recgpt.recall.index_gpu import DeviceMatrix, GpuSearcher
from recgpt.signature import interests_spec

# float32 sums in another order, of values of about 1.
TOLERANCE = 1e-4


def tokens(lengths, *, num_excluded=3, seed=0):
    generator = np.random.default_rng(seed)
    lengths = np.array(lengths)
    real = np.arange(lengths.max()) < lengths[:, None]
    rows = generator.integers(1, NUM_ITEMS + 1, real.shape) * real
    return Tokens(
        user_rows=generator.integers(0, NUM_USERS + 1, len(lengths)),
        item_rows=rows,
        segments=np.zeros_like(rows),
        lengths=lengths,
        excluded=generator.integers(1, NUM_ITEMS + 1, (len(lengths), num_excluded)),
    )


@pytest.fixture(scope="module")
def decoder():
    return random_checkpoint().decoder


@pytest.fixture(scope="module", params=[1, 2])
def bound(request, decoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("bound") / "graph.onnx"
    write_onnx(Interests(decoder, request.param), path, metadata={}, precision=Precision.FLOAT32)
    session = onnxruntime.InferenceSession(str(path), providers=[CPU])
    return request.param, BoundInterests(session, interests_spec(request.param), model_spec(decoder), device="cpu")


def flat_index(decoder):
    index = ItemIndex.build(item_matrix(decoder))
    faiss = pytest.importorskip("faiss")
    made = faiss.IndexFlatIP(index.size)
    made.add(index.vectors())
    return made


def test_a_batch_is_filled_up_to_the_ladder_with_rows_that_are_valid():
    wide = filled_up(tokens([3, 9, 11], num_excluded=9), max_length=MAX_LENGTH)
    assert (wide.item_rows.shape, wide.segments.shape, wide.excluded.shape) == ((4, 16), (4, 16), (4, 16))
    assert wide.lengths.tolist() == [3, 9, 11, 1]
    assert filled_up(tokens([1]), max_length=MAX_LENGTH).item_rows.shape == (1, 8)
    assert filled_up(tokens([18]), max_length=MAX_LENGTH).item_rows.shape == (1, MAX_LENGTH)


def test_interests_found_by_their_address_are_pytorch_s_and_memory_is_used_again(bound, decoder):
    number, runner = bound
    searcher = GpuSearcher(flat_index(decoder), copy_to_gpu=lambda index: index)
    reference, matrix = EagerBackend(decoder, fused=(number,)), item_matrix(decoder)
    addresses = set()
    for seed, lengths in enumerate([[3], [5, 12, 2], [7], [1, 15, 4, 9], [2]]):
        asked = tokens(lengths, seed=seed)
        expected = reference.interests(asked, number)
        with runner.run(asked) as (interests, generated):
            np.testing.assert_array_equal(generated, expected.generated_rows)
            assert interests.shape == (len(asked) * number, matrix.shape[1])
            scores, places = searcher.search(interests, 5)
            if len(asked) == 1:
                addresses.add(interests.address)
        by_hand = -np.sort(-(expected.interests.reshape(-1, matrix.shape[1]) @ matrix[1:].T), axis=1)[:, :5]
        np.testing.assert_allclose(scores, by_hand, rtol=0, atol=TOLERANCE * np.abs(by_hand).max())
        assert places.shape == (len(asked) * number, 5)
    assert len(addresses) == 1


def test_threads_take_turns_and_each_gets_its_own_answer(bound, decoder):
    number, runner = bound
    reference = EagerBackend(decoder, fused=(number,))
    searcher = GpuSearcher(flat_index(decoder), copy_to_gpu=lambda index: index)
    batches = [tokens([1 + seed % 9], seed=seed) for seed in range(40)]

    def ask(asked):
        with runner.run(asked) as (interests, _):
            return searcher.search(interests, 1)[0]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, batches))
    for asked, found in zip(batches, answers, strict=True):
        interests = reference.interests(asked, number).interests[0]
        best = (interests @ item_matrix(decoder)[1:].T).max(axis=1)
        np.testing.assert_allclose(found[:, 0], best, rtol=0, atol=TOLERANCE * np.abs(best).max())


def test_every_thread_copies_the_index_once_and_searches_its_own_copy(decoder):
    made, together = [], threading.Barrier(4, timeout=30)

    def copy(index):
        made.append(threading.get_ident())
        return index

    queries = np.ones((2, 16), dtype=np.float32)
    searcher = GpuSearcher(flat_index(decoder), copy_to_gpu=copy)

    def search(_):
        together.wait()
        return searcher.search(queries, 3), searcher.search(queries, 3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(search, range(4)))
    assert len(made) == len(set(made)) == 4
    matrix = DeviceMatrix(address=queries.ctypes.data, shape=(2, 16), owner=queries)
    for found, expected in zip(searcher.search(matrix, 3), searcher.search(queries, 3), strict=True):
        np.testing.assert_array_equal(found, expected)
