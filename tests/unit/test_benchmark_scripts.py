from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GPU = runpy.run_path(str(BENCHMARKS / "gpu.py"))


@pytest.mark.parametrize("name", [*GPU["WITH_BUNDLE"], *GPU["ALONE"]])
def test_every_benchmark_that_a_machine_with_a_gpu_runs_is_there_and_takes_what_it_is_given(name: str) -> None:
    module = ast.parse((BENCHMARKS / f"{name}.py").read_text())
    [command] = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == name]
    options = {argument.arg for argument in command.args.args}
    assert {"out", "quick"} <= options
    assert "bundle" in options or name not in GPU["WITH_BUNDLE"]
