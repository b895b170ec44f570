from __future__ import annotations

import contextlib
from pathlib import Path

import faiss
import numpy as np
import pytest
from test_index import little_memory

from recgpt.bench.catalogues import item_vectors, query_vectors
from recgpt.errors import BundleCorruptError, ConfigError
from recgpt.metrics import ann_recall_at_k
from recgpt.recall.index import ItemIndex
from recgpt.recall.index_ann import IndexKind, Neighbours
from recgpt.recall.index_fit import fit_neighbours

NUM_ITEMS, SIZE, K = 3000, 24, 20
APPROXIMATE = [kind for kind in IndexKind if kind is not IndexKind.FLAT]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return item_vectors(NUM_ITEMS, SIZE)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return query_vectors(40, NUM_ITEMS, SIZE)


@pytest.fixture(scope="module")
def exact(vectors: np.ndarray) -> ItemIndex:
    return ItemIndex.build(np.concatenate([np.zeros((1, SIZE), dtype=np.float32), vectors]))


@pytest.fixture(scope="module", params=APPROXIMATE)
def index(request: pytest.FixtureRequest, exact: ItemIndex, queries: np.ndarray) -> ItemIndex:
    return exact.approximate(fit_neighbours(exact, request.param, queries)[0])


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k] + 1


def test_most_of_the_exact_answer_is_found_with_exact_scores_in_order(
    index: ItemIndex, vectors: np.ndarray, queries: np.ndarray
) -> None:
    rows, scores = index.search(queries, K)
    # Fitted to find 97% of the 100 best, and the first ones are found more easily.
    assert ann_recall_at_k(rows, brute_force(vectors, queries, K)) >= 0.95
    # float32 sums of 24 products of unit vectors, in another order
    np.testing.assert_allclose(scores, np.einsum("nd,nkd->nk", queries, vectors[rows - 1]), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert all(len(set(found)) == K for found in rows.tolist())


def test_excluded_rows_are_not_found_and_the_list_is_full_all_the_same(index: ItemIndex, queries: np.ndarray) -> None:
    best, _ = index.search(queries, K)
    excluded = np.concatenate([best, np.zeros((len(queries), 3), dtype=np.int64)], axis=1)
    rows, scores = index.search(queries, K, excluded=excluded)
    assert rows.shape == (len(queries), K)
    assert not any(set(found) & set(gone) for found, gone in zip(rows.tolist(), best.tolist(), strict=True))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_too_few_candidates_are_made_up_for_by_an_exact_search(
    kind: IndexKind, exact: ItemIndex, vectors: np.ndarray, queries: np.ndarray
) -> None:
    index = exact.approximate(Neighbours.build(kind, vectors))  # looks into one cell, which holds dozens of items
    k = NUM_ITEMS - 10
    rows, scores = index.search(queries[:3], k)
    expected, expected_scores = exact.search(queries[:3], k)
    assert (rows > 0).all()
    if kind is not IndexKind.HNSW:
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_array_equal(scores, expected_scores)


def test_everything_is_found_where_everything_is_asked_for(index: ItemIndex, queries: np.ndarray) -> None:
    rows, _ = index.search(queries[:2], NUM_ITEMS + 7)
    assert [sorted(found) for found in rows.tolist()] == [list(range(1, NUM_ITEMS + 1))] * 2


def test_rows_left_out_are_never_found(index: ItemIndex, queries: np.ndarray) -> None:
    gone = {int(row) for row in index.search(queries, 3)[0].ravel()} | {NUM_ITEMS}
    fewer = index.without(gone)
    rows, _ = fewer.search(queries, K)
    assert not gone & set(rows.ravel().tolist())
    # What the rest of the first list was is found again.
    kept = [[row for row in found if row not in gone] for found in index.search(queries, K)[0].tolist()]
    assert all(found[: len(left)] == left for found, left in zip(rows.tolist(), kept, strict=True))


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_an_index_is_saved_with_what_was_added_to_it(
    kind: IndexKind, vectors: np.ndarray, queries: np.ndarray, tmp_path: Path
) -> None:
    neighbours = Neighbours.build(kind, vectors[:-50])
    neighbours.add(vectors[-50:])
    neighbours.save(tmp_path / "neighbours")
    loaded = Neighbours.load(tmp_path / "neighbours", effort=8)
    assert loaded.num_items == NUM_ITEMS
    neighbours.effort = 8
    np.testing.assert_array_equal(loaded.candidates(queries, 30), neighbours.candidates(queries, 30))
    own = loaded.candidates(vectors[-50:], 1)[:, 0]
    assert np.mean(own == np.arange(NUM_ITEMS - 50, NUM_ITEMS)) > 0.9


def test_fitting_says_what_was_built_and_what_it_finds(exact: ItemIndex, queries: np.ndarray) -> None:
    neighbours, facts = fit_neighbours(exact, IndexKind.IVF_SQ8, queries, min_recall=0.9)
    assert facts["kind"] == "ivf_sq8"
    assert facts["effort"] == neighbours.effort < facts["parameters"]["num_cells"]
    assert (facts["k"], facts["num_queries"]) == (100, len(queries))
    assert 0.9 <= facts["ann_recall_at_k"] <= 1
    # A search ranks the 200 candidates by exact scores, so those of the 100 best that are among them come first.
    found = exact.approximate(neighbours).search(queries, 100)[0]
    assert facts["ann_recall_at_k"] == pytest.approx(ann_recall_at_k(found, exact.search(queries, 100)[0]), abs=0.01)


def test_vectors_of_an_odd_width_are_refused_in_pairs(vectors: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="even"):
        Neighbours.build(IndexKind.IVF_PQ, np.ascontiguousarray(vectors[:, :23]))


def test_foreign_files_and_flat_kinds_are_refused(vectors: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flat"):
        Neighbours.build(IndexKind.FLAT, vectors)
    path = tmp_path / "item_neighbours.faiss"
    path.write_bytes(b"not an index at all")
    with pytest.raises(BundleCorruptError, match="item_neighbours.faiss"):
        Neighbours.load(path, effort=1)
    faiss.write_index(faiss.IndexFlatIP(4), str(path))
    with pytest.raises(BundleCorruptError, match="expected an HNSW or IVF"):
        Neighbours.load(path, effort=1)


def test_few_items_make_few_cells() -> None:
    queries = query_vectors(5, 30, SIZE)
    exact = ItemIndex.build(np.concatenate([np.zeros((1, SIZE), dtype=np.float32), item_vectors(30, SIZE)]))
    for kind in APPROXIMATE:
        neighbours, facts = fit_neighbours(exact, kind, queries)
        assert facts["k"] == 30
        np.testing.assert_array_equal(exact.approximate(neighbours).search(queries, 5)[0], exact.search(queries, 5)[0])


@pytest.fixture(scope="module")
def contents(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[IndexKind, bytes]:
    """A small file of each kind."""
    path = tmp_path_factory.mktemp("contents") / "index"
    found = {}
    for kind in APPROXIMATE:
        Neighbours.build(kind, vectors[:200]).save(path)
        found[kind] = path.read_bytes()
    return found


@pytest.mark.parametrize("size", [2**24, 2**40, 2**62, -1])
@pytest.mark.parametrize("kind", APPROXIMATE)
def test_a_file_that_claims_sizes_beyond_its_own_is_refused_before_memory_is_asked_for(
    kind: IndexKind, contents: dict[IndexKind, bytes], tmp_path: Path, size: int
) -> None:
    path, content, num_refused = tmp_path / "item_neighbours.faiss", contents[kind], 0
    for place in range(4, 500):  # all numbers that are no vectors stand there, or at the end
        path.write_bytes(content[:place] + size.to_bytes(8, "little", signed=True) + content[place + 8 :])
        try:
            with little_memory():
                Neighbours.load(path, effort=1)
        except BundleCorruptError as error:
            num_refused += 1
            assert "item_neighbours.faiss" in str(error)
    assert num_refused > 50


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", APPROXIMATE)
def test_altered_bytes_are_refused_or_harmless_in_searches_too(
    kind: IndexKind, contents: dict[IndexKind, bytes], queries: np.ndarray, tmp_path: Path, seed: int
) -> None:
    path, content, rng = tmp_path / "item_neighbours.faiss", contents[kind], np.random.default_rng(seed)
    for _ in range(250):
        altered = bytearray(content)
        last = len(content) if rng.random() < 0.5 else 500
        for place in rng.integers(0, last, rng.integers(1, 5)):
            altered[place] = rng.integers(0, 256)
        path.write_bytes(altered[: rng.integers(4, len(altered) + 1)] if rng.random() < 0.3 else altered)
        with contextlib.suppress(BundleCorruptError):
            with little_memory():
                loaded = Neighbours.load(path, effort=4)
            if loaded.size == SIZE:  # a bundle asks no other
                assert loaded.candidates(queries[:3], 10).shape == (3, 10)


@pytest.mark.parametrize("name", ["bbs", "implem", "qbs2"])
def test_a_way_to_scan_that_would_end_the_process_is_refused(
    contents: dict[IndexKind, bytes], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "item_neighbours.faiss"
    path.write_bytes(contents[IndexKind.IVF_PQ])
    index = faiss.read_index(str(path))
    setattr(index, name, 64)
    faiss.write_index(index, str(path))
    with pytest.raises(BundleCorruptError, match=f"'{name}': 64"):
        Neighbours.load(path, effort=1)
