"""A graph to one TorchScript file, for libtorch and for PyTorch without this package.

Inputs and outputs are positional, in the order of ``recgpt.signature``. Knows how to trace; not what the file is for.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from recgpt.errors import BundleError
from recgpt.files import atomic_path
from recgpt.graphs.recall import Graph
from recgpt.graphs.tracing import example_inputs, export_copy


def write_torchscript(graph: Graph, path: Path) -> None:
    """Traces one graph and writes it frozen, weights inside; batch and lengths stay free.

    Args:
        graph: what to write; it is not changed.
        path: the file, wholly written or not at all.

    Raises:
        ExportError: a weight is NaN or infinite.
        OutputError: the file cannot be written.
    """
    module = export_copy(graph)
    with _quiet_jit(), torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(module, example_inputs(module)))  # type: ignore[no-untyped-call]
        # Opened here, so that a full disk is an OSError and not one of libtorch's own errors.
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.jit.save(traced, file)


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Reads a file of ``write_torchscript`` onto the CPU; BundleError if it is missing or damaged."""
    try:
        with _quiet_jit():
            # Typed by hand, since PyTorch does not.
            module: torch.jit.ScriptModule = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    except (ValueError, RuntimeError) as error:
        raise BundleError(
            f"{path} is no TorchScript graph ({str(error).splitlines()[0]}); run export/to_torchscript.py again"
        ) from error
    return module


@contextlib.contextmanager
def _quiet_jit() -> Iterator[None]:
    """Leaves out the advice to leave TorchScript, which is what was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield
