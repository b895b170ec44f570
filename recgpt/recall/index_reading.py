"""How Faiss is let read a file that somebody may have made up: within limits, and what it cannot read is our error.

It asks for memory by what a file says, and its own limits are far above what a bundle may need.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from recgpt.errors import BundleCorruptError
from recgpt.extras import require

_READING = threading.Lock()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Lets Faiss read no vector that is larger than the file itself; one file at a time.

    Raises:
        BundleCorruptError: what the block reads is missing, damaged, or more than there is memory for.
    """
    faiss = require("faiss")
    with _READING:  # the limits are of the whole process
        before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
        try:
            num_bytes = path.stat().st_size
            faiss.set_deserialization_vector_byte_limit(num_bytes)
            faiss.set_deserialization_loop_limit(num_bytes)
            yield
        except (OSError, RuntimeError, MemoryError) as error:
            raise BundleCorruptError(
                f"{path}: not a readable index, or one that does not fit into memory; export the checkpoint again"
            ) from error
        finally:
            faiss.set_deserialization_vector_byte_limit(before[0])
            faiss.set_deserialization_loop_limit(before[1])
