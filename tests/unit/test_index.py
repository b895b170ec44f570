from __future__ import annotations

import contextlib
import hashlib
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest

from recgpt.errors import BundleCorruptError
from recgpt.recall.index import ItemIndex, vectors_digest
from recgpt.recall.index_gpu import GpuSearcher


def brute_force(matrix: np.ndarray, query: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    scores = [float(np.dot(vector, query)) for vector in matrix]
    rows = sorted(range(1, len(matrix)), key=lambda row: (-scores[row], row))[:k]
    return rows, [scores[row] for row in rows]


def normal_matrix(num_items: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_items + 1, size)).astype(np.float32)


@pytest.mark.parametrize("num_queries", [1, 3, 64], ids=["one", "few", "enough for Faiss to switch to BLAS"])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_search_is_exact(num_queries: int, k: int) -> None:
    matrix = normal_matrix(200)
    queries = np.random.default_rng(1).standard_normal((num_queries, 16)).astype(np.float32)
    rows, scores = ItemIndex.build(matrix).search(queries, k)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    assert rows.shape == scores.shape == (num_queries, k)
    for found, found_scores, query in zip(rows, scores, queries, strict=True):
        expected, expected_scores = brute_force(matrix, query, k)
        assert found.tolist() == expected
        # float32 sums of 16 products of about 1, in another order
        np.testing.assert_allclose(found_scores, expected_scores, atol=1e-5)


@pytest.mark.parametrize("num_queries", [1, 64])
@pytest.mark.parametrize("num_items", [7, 50, 3000])
def test_equal_scores_come_in_row_order_also_where_they_straddle_the_end(num_items: int, num_queries: int) -> None:
    rng = np.random.default_rng(2)
    matrix = rng.integers(-2, 3, (num_items + 1, 3)).astype(np.float32)  # whole numbers: ties are exact and many
    queries = rng.integers(-2, 3, (num_queries, 3)).astype(np.float32)
    index = ItemIndex.build(matrix)
    for k in (1, 2, 5, num_items - 1, num_items):
        rows, scores = index.search(queries, k)
        for found, found_scores, query in zip(rows, scores, queries, strict=True):
            assert (found.tolist(), found_scores.tolist()) == brute_force(matrix, query, k)


@pytest.mark.parametrize("num_queries", [1, 5, 64])
@pytest.mark.parametrize("size", [16, 50, 64])
def test_equal_vectors_come_in_row_order_whatever_their_values(size: int, num_queries: int) -> None:
    rng = np.random.default_rng(3)
    matrix = np.tile(rng.standard_normal(size).astype(np.float32), (1004, 1))
    queries = rng.standard_normal((num_queries, size)).astype(np.float32)
    rows, _ = ItemIndex.build(matrix).search(queries, 7)
    assert rows.tolist() == [[1, 2, 3, 4, 5, 6, 7]] * num_queries


def test_all_items_equal_gives_the_lowest_rows() -> None:
    rows, _ = ItemIndex.build(np.ones((101, 4), dtype=np.float32)).search(np.ones((1, 4), dtype=np.float32), 5)
    assert rows.tolist() == [[1, 2, 3, 4, 5]]


def test_more_than_the_catalogue_gives_the_whole_catalogue() -> None:
    rows, scores = ItemIndex.build(normal_matrix(5)).search(normal_matrix(2)[1:], 99)
    assert scores.shape == (2, 5)
    assert [sorted(found) for found in rows.tolist()] == [[1, 2, 3, 4, 5]] * 2


def test_padding_is_never_found_even_if_its_vector_is_the_best() -> None:
    matrix = normal_matrix(20)
    matrix[0] = 1000.0
    rows, _ = ItemIndex.build(matrix).search(np.ones((1, 16), dtype=np.float32), 20)
    assert sorted(rows[0].tolist()) == list(range(1, 21))


def test_queries_may_be_any_view() -> None:
    matrix, queries = normal_matrix(50), normal_matrix(9)
    index = ItemIndex.build(matrix)
    view = np.asfortranarray(queries)[::2]
    np.testing.assert_array_equal(index.search(view, 5)[0], index.search(view.copy(), 5)[0])


def test_save_and_load_keep_every_bit(tmp_path: Path) -> None:
    matrix = normal_matrix(40)
    index = ItemIndex.build(matrix)
    index.save(tmp_path / "index")
    loaded = ItemIndex.load(tmp_path / "index")
    assert (loaded.num_items, loaded.size) == (40, 16)
    np.testing.assert_array_equal(loaded.vectors(), matrix[1:])
    assert loaded.digest() == index.digest()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_noticed() -> None:
    with pytest.raises(OSError, match="No space left"):
        ItemIndex.build(normal_matrix(4)).save(Path("/dev/full"))


def test_digest_is_the_hash_of_the_rows_without_padding() -> None:
    matrix = normal_matrix(40)
    expected = hashlib.sha256(matrix[1:].astype("<f4").tobytes()).hexdigest()
    assert ItemIndex.build(matrix).digest() == expected == vectors_digest(matrix[1:])
    matrix[3, 3] += 1
    assert ItemIndex.build(matrix).digest() != expected


def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "item_index.faiss"
    ItemIndex.build(normal_matrix(40)).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleCorruptError, match="item_index.faiss"):
        ItemIndex.load(path)
    path.write_bytes(b"not an index at all")
    with pytest.raises(BundleCorruptError, match="item_index.faiss"):
        ItemIndex.load(path)
    path.unlink()
    with pytest.raises(BundleCorruptError, match="item_index.faiss"):
        ItemIndex.load(path)
    faiss.write_index(faiss.IndexFlatL2(4), str(path))
    with pytest.raises(BundleCorruptError, match="inner-product"):
        ItemIndex.load(path)


def test_searches_from_several_threads_agree() -> None:
    matrix = normal_matrix(500)
    index = ItemIndex.build(matrix)
    queries = [normal_matrix(4, seed=seed)[1:] for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda query: index.search(query, 10)[0].tolist(), queries))
    assert together == [[brute_force(matrix, row, 10)[0] for row in query] for query in queries]


def among_by_hand(matrix: np.ndarray, query: np.ndarray, k: int, rows: np.ndarray) -> tuple[list[int], list[float]]:
    found, scores = brute_force(matrix, query, len(matrix) - 1)
    kept = [(row, score) for row, score in zip(found, scores, strict=True) if row in set(rows.tolist())][:k]
    return [row for row, _ in kept], [score for _, score in kept]


# What Faiss's GPU indexes are like: a search of their own, and no selectors.
WAYS = pytest.mark.parametrize("on_gpu", [False, True], ids=["selector", "over-fetch"])


def index_of(matrix: np.ndarray, *, on_gpu: bool) -> ItemIndex:
    index = ItemIndex.build(matrix)
    if on_gpu and index._gpu is None:
        index._gpu = GpuSearcher(index._index, copy_to_gpu=lambda copied: copied)
    return index


@WAYS
@pytest.mark.parametrize("num_rows", [1, 5, 900, 1100, 2900, 3000])
@pytest.mark.parametrize("k", [1, 10, 700])
def test_a_search_among_some_items_is_exact_with_ties_by_row(num_rows: int, k: int, on_gpu: bool) -> None:
    rng = np.random.default_rng(num_rows)
    matrix = rng.integers(-3, 4, (3001, 4)).astype(np.float32)  # whole numbers: ties are exact and many
    rows = np.sort(rng.permutation(3000)[:num_rows]) + 1
    queries = rng.integers(-3, 4, (3, 4)).astype(np.float32)
    found, scores = index_of(matrix, on_gpu=on_gpu).search(queries, k, rows)
    assert (found.dtype, scores.dtype) == (np.int64, np.float32)
    assert found.shape == scores.shape == (3, min(k, num_rows))
    for query, one, its_scores in zip(queries, found, scores, strict=True):
        assert (one.tolist(), its_scores.tolist()) == among_by_hand(matrix, query, k, rows)


@WAYS
@pytest.mark.parametrize("num_rows", [50, 1500])
def test_a_search_among_equal_vectors_gives_the_lowest_rows(num_rows: int, on_gpu: bool) -> None:
    rng = np.random.default_rng(3)
    matrix = np.tile(rng.standard_normal(50).astype(np.float32), (2004, 1))
    rows = np.sort(rng.permutation(2003)[:num_rows]) + 1
    queries = rng.standard_normal((5, 50)).astype(np.float32)
    found, _ = index_of(matrix, on_gpu=on_gpu).search(queries, 7, rows)
    assert found.tolist() == [rows[:7].tolist()] * 5


@WAYS
def test_a_search_among_the_worst_items_finds_them(on_gpu: bool) -> None:
    matrix = np.arange(6001, dtype=np.float32)[:, None]
    rows = np.arange(1, 1201)
    found, scores = index_of(matrix, on_gpu=on_gpu).search(np.ones((2, 1), dtype=np.float32), 3, rows)
    assert found.tolist() == [[1200, 1199, 1198]] * 2
    assert scores.tolist() == [[1200, 1199, 1198]] * 2


def test_a_search_among_items_of_a_thinned_index() -> None:
    matrix = np.arange(101, dtype=np.float32)[:, None]
    index = ItemIndex.build(matrix).without([100, 50])
    found, _ = index.search(np.ones((1, 1), dtype=np.float32), 3, np.array([2, 49, 51, 99]))
    assert found.tolist() == [[99, 51, 49]]


@pytest.mark.parametrize("size", [2**24, 2**40, 2**62, -1])
def test_an_index_that_claims_more_than_its_file_holds_is_refused_before_memory_is_asked_for(
    tmp_path: Path, size: int
) -> None:
    path = tmp_path / "item_index.faiss"
    ItemIndex.build(normal_matrix(40)).save(path)
    content = bytearray(path.read_bytes())
    place = len(content) - 40 * 16 * 4 - 8  # the number of values stands right before them
    assert int.from_bytes(content[place : place + 8], "little") == 40 * 16
    content[place : place + 8] = size.to_bytes(8, "little", signed=True)
    path.write_bytes(content)
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    with little_memory(), pytest.raises(BundleCorruptError, match="item_index.faiss"):
        ItemIndex.load(path)
    assert (faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()) == before


@pytest.mark.parametrize("seed", range(4))
def test_altered_bytes_are_refused_or_harmless_and_never_end_the_process(tmp_path: Path, seed: int) -> None:
    path, rng = tmp_path / "item_index.faiss", np.random.default_rng(seed)
    index = ItemIndex.build(normal_matrix(40))
    index.save(path)
    content = path.read_bytes()
    for _ in range(250):
        altered = bytearray(content)
        header = len(content) - 40 * 16 * 4
        for place in rng.integers(0, header, rng.integers(1, 5)):
            altered[place] = rng.integers(0, 256)
        path.write_bytes(altered[: rng.integers(4, len(altered) + 1)] if rng.random() < 0.3 else altered)
        with contextlib.suppress(BundleCorruptError):
            loaded = ItemIndex.load(path)
            np.testing.assert_array_equal(loaded.vectors(), index.vectors())


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Leaves this process 32 MiB more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + 2**25, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
