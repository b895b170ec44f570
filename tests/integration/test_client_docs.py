"""docs/client.md is right: its Python blocks run as they stand, against a real server; its tables name all there is."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import Served

from recgpt import AsyncRecallClient, CallPolicy, RecallClient, errors

DOCS = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
NOT_OF_A_CLIENT = {
    "RecGPTError", "DataError", "CheckpointError", "OutputError", "ExportError", "ParityError", "LaunchError",
}  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_each_block_runs(block: str, served: Served, served_bundle: Path, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    # A busy machine is not what is tested: short deadlines are made long.
    text = re.sub(r"timeout_s=[\d.]+", "timeout_s=20.0", block)
    script.write_text(text.replace("localhost:8001", served.server.url).replace("artifacts/bundle", str(served_bundle)))
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr


def test_the_command_runs(served: Served, served_bundle: Path) -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)
    text = block.replace("localhost:8001", served.server.url).replace("artifacts/bundle", str(served_bundle))
    recgpt, *arguments = shlex.split(text)
    command = [str(Path(sys.executable).with_name(recgpt)), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr


def first_column() -> set[str]:
    cells = re.findall(r"^\| ([^|]+) \|", DOCS, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_option_and_every_error_is_in_the_tables() -> None:
    options = set(inspect.signature(RecallClient.__init__).parameters) - {"self"}
    assert options == set(inspect.signature(AsyncRecallClient.__init__).parameters) - {"self"}
    fields = {field.name for field in dataclasses.fields(CallPolicy)}
    ours = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert (options | fields | ours - NOT_OF_A_CLIENT) <= first_column()
