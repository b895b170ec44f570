"""Optional dependencies: import them where they are used, and say which extra brings a missing one."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from types import ModuleType

from recgpt.errors import DependencyError

# Import name -> the extras of this package that bring it, the usual one first.
_EXTRAS = {
    "faiss": ("cpu", "gpu"),
    "grpc": ("client",),
    "lightning": ("train",),
    "matplotlib": ("bench",),
    "mlperf_loadgen": ("bench",),
    "onnx": ("export",),
    "onnx_ir": ("export",),
    "onnxruntime": ("cpu", "gpu"),
    "onnxscript": ("export",),
    "opentelemetry": ("otel",),
    "pyarrow": ("train",),
    "pytriton": ("serve",),
    "scipy": ("bench",),
    "torch": ("train", "export"),
    "tritonclient": ("client",),
}

OPTIONAL = frozenset(_EXTRAS)
"""Import names that no installation is sure to have."""

# Distributions that install the same import name: with two of a kind, which one answers is chance.
_EXCLUSIVE = {
    "faiss": ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12"),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}


def require(module: str) -> ModuleType:
    """Imports an optional dependency.

    Args:
        module: import name, dotted for a submodule (``"tritonclient.grpc"``).

    Returns:
        The imported module.

    Raises:
        DependencyError: it is not installed (names the extra that brings it), or two distributions that both provide it
            are installed.
    """
    root = module.partition(".")[0]
    refuse_conflicts(root)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != root:
            raise
        raise missing(root) from error
    except ImportError as error:
        raise DependencyError(
            f"the installed '{root}' cannot be imported: {error}; install the versions that were tested together: "
            f"pip install -c constraints.txt '.[{_EXTRAS[root][0]}]', in a checkout of recgpt"
        ) from error


def missing(root: str) -> DependencyError:
    """The error that names the extra which brings the import name ``root``; KeyError if none of ours does."""
    extras = _EXTRAS[root]
    return DependencyError(
        f"this needs the package '{root}', which is not installed; it comes with the extra {' or '.join(extras)}: "
        f"pip install -c constraints.txt '.[{extras[0]}]', in a checkout of recgpt"
    )


@functools.cache
def refuse_conflicts(root: str) -> None:
    """Raises DependencyError if two distributions that provide the import name ``root`` are installed."""
    found = [name for name in _EXCLUSIVE.get(root, ()) if _is_installed(name)]
    if len(found) > 1:
        raise DependencyError(
            f"{' and '.join(found)} are installed together; both provide '{root}' and overwrite each other's files. "
            f"Run: pip uninstall -y {' '.join(found)}; then install one of the extras cpu and gpu"
        )


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
