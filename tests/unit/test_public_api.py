from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import recgpt

HEAVY = ("torch", "lightning", "onnx", "onnxruntime", "onnxscript", "faiss", "tritonclient", "matplotlib", "pyarrow")


def modules_after(code: str) -> set[str]:
    """Top-level names of what a fresh process has imported after some code."""
    show = f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_all_is_sorted_and_every_name_is_there() -> None:
    assert list(recgpt.__all__) == sorted(set(recgpt.__all__))
    for name in recgpt.__all__:
        assert getattr(recgpt, name).__name__ == name
    assert dir(recgpt) == recgpt.__all__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        recgpt.no_such_name  # noqa: B018


def test_import_loads_nothing_heavy() -> None:
    assert not modules_after("import recgpt, recgpt.cli") & set(HEAVY)


def test_the_client_loads_no_model_runtime() -> None:
    loaded = modules_after("from recgpt import RecallClient")
    assert not loaded & {"torch", "lightning", "onnx", "onnxruntime", "onnxscript", "matplotlib", "pyarrow"}


def test_the_engine_loads_neither_torch_nor_onnx() -> None:
    assert not modules_after("from recgpt import Engine") & {"torch", "lightning", "onnx", "onnxscript"}


MODULES = sorted(module.name for module in pkgutil.walk_packages(recgpt.__path__, "recgpt."))
# They import what only a server's Python process has.
INSIDE_TRITON = ("recgpt.serving.onnxruntime_backend", "recgpt.serving.recall_engine")


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith(INSIDE_TRITON)])
def test_every_module_can_be_imported_and_says_what_it_is(name: str) -> None:
    assert importlib.import_module(name).__doc__
