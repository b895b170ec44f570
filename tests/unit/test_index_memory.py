from __future__ import annotations

import faiss
import numpy as np
import pytest

from recgpt.errors import BundleCorruptError
from recgpt.recall.index import ItemIndex
from recgpt.recall.index_memory import read_flat


def stored(path, num_items, width):
    vectors = np.random.default_rng(0).standard_normal((num_items, width)).astype(np.float32)
    index = faiss.IndexFlatIP(width)
    index.add(vectors)
    faiss.write_index(index, str(path))
    return vectors


# A row may be shorter than what stands before the vectors in the file, or longer.
@pytest.mark.parametrize("width", [1, 4, 11, 12, 64])
def test_faiss_searches_the_rows_of_the_matrix_in_place(tmp_path, width):
    vectors = stored(tmp_path / "index", 50, width)
    index, matrix = read_flat(tmp_path / "index")
    assert (matrix.shape, matrix.dtype) == ((51, width), np.float32)
    assert not matrix[0].any()
    np.testing.assert_array_equal(matrix[1:], vectors)
    assert matrix[1:].ctypes.data % 64 == 0
    queries = np.random.default_rng(1).standard_normal((3, width)).astype(np.float32)
    scores, _ = index.search(queries, 5)
    np.testing.assert_allclose(scores, -np.sort(-(queries @ vectors.T), axis=1)[:, :5], rtol=1e-5)
    matrix[8] = 1000 * queries[0]
    assert index.search(queries[:1], 1)[1].item() == 7


def test_a_loaded_index_is_as_good_as_a_built_one_and_can_be_written_again(tmp_path):
    vectors = stored(tmp_path / "index", 40, 16)
    loaded = ItemIndex.load(tmp_path / "index")
    built = ItemIndex.build(np.concatenate([np.zeros((1, 16), dtype=np.float32), vectors]))
    queries = np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)
    for index in (loaded, loaded.without([])):
        for found, expected in zip(index.search(queries, 7), built.search(queries, 7), strict=True):
            np.testing.assert_array_equal(found, expected)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "index").read_bytes()
    assert built.item_matrix is None
    np.testing.assert_array_equal(loaded.without([3]).item_matrix, loaded.item_matrix)


@pytest.mark.parametrize("damage", [lambda data: data[:20], lambda data: b"", lambda data: data[:-4]])
def test_a_damaged_file_is_refused(tmp_path, damage):
    stored(tmp_path / "index", 10, 4)
    (tmp_path / "index").write_bytes(damage((tmp_path / "index").read_bytes()))
    with pytest.raises(BundleCorruptError, match="index"):
        read_flat(tmp_path / "index")


def test_a_missing_file_and_another_kind_of_index_are_refused(tmp_path):
    faiss.write_index(faiss.IndexFlatL2(4), str(tmp_path / "other"))
    for name in ("missing", "other"):
        with pytest.raises(BundleCorruptError, match=name):
            read_flat(tmp_path / name)
