"""As many threads for the products of every library, numpy's among them, and stated in what a benchmark writes."""

from __future__ import annotations

import os

import faiss
import torch

from recgpt.errors import ConfigError

NUMPY = "OPENBLAS_NUM_THREADS"
"""Of the environment: numpy's BLAS reads it when it is loaded, and has no call for it."""


def pin_threads(num_threads: int) -> dict[str, int]:
    """Gives PyTorch and Faiss so many threads for the whole process, and demands that numpy's BLAS has as many.

    Returns:
        The threads of each, by its name; ONNX Runtime's are a matter of each session.

    Raises:
        ConfigError: the environment gives numpy's BLAS others, or leaves them open.
    """
    found = os.environ.get(NUMPY)
    if found != str(num_threads):
        raise ConfigError(
            f"{NUMPY} is {found or 'not set'}: expected {num_threads}, the threads of all others; numpy takes its own "
            f"from there, so set it before the command"
        )
    torch.set_num_threads(num_threads)
    faiss.omp_set_num_threads(num_threads)
    return {"torch": torch.get_num_threads(), "faiss": faiss.omp_get_max_threads(), "numpy": num_threads}
