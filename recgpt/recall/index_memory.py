"""A stored index read into memory that the model's graphs can use too: one copy of the item vectors in the process.

| row 0: zeros | row 1 | row 2 | ..      (V + 1, D) float32, as graphs want it
               ^ Faiss's vectors
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recgpt.errors import BundleCorruptError
from recgpt.extras import require
from recgpt.recall.index_reading import reading
from recgpt.types import Float32Array

# Vectors begin at a multiple of this, as processors like to read them.
_ALIGNMENT = 64


def read_flat(path: Path) -> tuple[Any, Float32Array]:
    """Reads a flat inner-product index that Faiss wrote.

    Check the file's hash first: Faiss's reader trusts most of what it reads.

    Returns:
        The index, and the (V + 1, D) float32 matrix whose rows 1..V it searches in place; row 0 is zero. The matrix
        must live as long as the index.

    Raises:
        BundleCorruptError: the file is missing or not such an index.
    """
    faiss = require("faiss")
    with reading(path):
        mapped = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        if not isinstance(mapped, faiss.IndexFlat) or mapped.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise BundleCorruptError(f"{path}: expected a flat inner-product index; export the checkpoint again")
        num_items, width = int(mapped.ntotal), int(mapped.d)
        del mapped
        num_bytes = path.stat().st_size
        # In the file, the vectors come last; what stands before them is read once and then overwritten by row 0.
        header = num_bytes - num_items * width * 4
        before = max(header, width * 4)
        memory = np.zeros(before + num_items * width * 4 + _ALIGNMENT, dtype=np.uint8)
        start = -(memory.ctypes.data + before) % _ALIGNMENT + before
        stored = memory[start - header : start - header + num_bytes]
        with path.open("rb") as file:
            num_read = file.readinto(stored.data)
        if num_read != num_bytes:
            raise BundleCorruptError(f"{path}: {num_read} of {num_bytes} bytes could be read; export again")
        index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(stored), num_bytes))
    memory[start - before : start] = 0
    matrix = memory[start - width * 4 : start + num_items * width * 4].view(np.float32)
    return index, matrix.reshape(num_items + 1, width)
