"""README.md is right: each command and the client example are run as they stand there, on a small data set.

Only what a test must not take from the machine is changed: the server's well-known ports, and the length of training
and of the benchmark.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recgpt.data.sequences import write_sequences
from recgpt.data.synthetic import generate
from recgpt.serving.server import TritonServer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(block: str) -> list[str]:
    return [line.partition("#")[0].strip() for line in block.splitlines() if line.strip()]


TWO, OWN_DATA, FOUR = (commands(block) for block in blocks("bash"))
ACTIVATE, TRAIN, TO_ONNX, SERVE, BENCHMARK = FOUR
(CLIENT,) = blocks("python")
RECALL = re.search(r"`(recgpt recall --url .*?)`", README)[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of its own, so that nothing is written into this one."""
    folder = tmp_path_factory.mktemp("checkout")
    only_settings = shutil.ignore_patterns("[0-9]*")
    for name in ("export", "benchmarks", "triton_models"):
        shutil.copytree(ROOT / name, folder / name, ignore=only_settings)
    write_sequences(folder / "interactions.txt", generate(num_users=200, num_items=120, seed=0))
    return folder


@pytest.fixture(scope="module")
def trained_and_exported(checkout: Path) -> Path:
    for command in (f"{TRAIN} --epochs 1", TO_ONNX):
        assert shell(command, checkout).returncode == 0
    return checkout


@pytest.fixture(scope="module")
def server(trained_and_exported: Path) -> Iterator[TritonServer]:
    assert SERVE == "tritonserver --model-repository triton_models"
    with TritonServer(trained_and_exported / "triton_models", log=trained_and_exported / "server.log") as server:
        yield server


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.mark.parametrize("command", TWO + OWN_DATA)
def test_make_knows_the_targets(command: str) -> None:
    result = shell(f"{command} --dry-run", ROOT)
    assert result.returncode == 0, result.stderr


def test_the_environment_that_is_activated_is_the_one_make_builds() -> None:
    environment = ACTIVATE.removeprefix("source ").removesuffix("/bin/activate")
    assert f"VENV := {environment}" in (ROOT / "Makefile").read_text().splitlines()


def test_training_and_export_write_what_the_comments_say(trained_and_exported: Path) -> None:
    assert (trained_and_exported / "artifacts" / "run" / "ckpt.pt").is_file()
    assert (trained_and_exported / "artifacts" / "bundle" / "manifest.json").is_file()
    served = {path.parts[-3] for path in trained_and_exported.glob("triton_models/*/*/model.onnx")}
    assert served == {
        "prefill",
        "decode",
        "interests_1",
        "interests_2",
        "interests_6",
        "recall_1",
        "recall_2",
    }


def test_the_client_example_prints_ten_items(server: TritonServer, trained_and_exported: Path) -> None:
    example = trained_and_exported / "example.py"
    example.write_text(CLIENT.replace("localhost:8001", server.url))
    result = shell(f"python {example}", trained_and_exported)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 10


def test_the_client_example_is_short() -> None:
    assert len(CLIENT.strip().splitlines()) <= 6


def test_recall_from_the_shell(server: TritonServer, trained_and_exported: Path) -> None:
    result = shell(RECALL.replace("localhost:8001", server.url), trained_and_exported)
    assert result.returncode == 0, result.stderr
    assert "interest 1" in result.stdout


def test_the_benchmark_runs_on_what_was_exported_last(trained_and_exported: Path) -> None:
    result = shell(f"{BENCHMARK} --quick", trained_and_exported)
    assert result.returncode == 0, result.stderr
    assert (trained_and_exported / "benchmarks" / "results" / "recall_latency.json").is_file()
