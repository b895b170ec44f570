"""As many threads for the products of every library, and stated in what a benchmark writes."""

from __future__ import annotations

import faiss  # noqa: F401  its libraries have to be there to be limited, as numpy's are
import torch
from threadpoolctl import threadpool_info, threadpool_limits


def pin_threads(num_threads: int) -> dict[str, int]:
    """Gives PyTorch, Faiss and numpy's BLAS so many threads, for the rest of the process.

    Returns:
        The threads of PyTorch and of each library below the others, by its name; ONNX Runtime's are a matter of each
        session.
    """
    torch.set_num_threads(num_threads)
    threadpool_limits(num_threads)
    return {"torch": torch.get_num_threads(), **{one["prefix"]: one["num_threads"] for one in threadpool_info()}}
