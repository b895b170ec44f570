"""docs/serving.md is right: its bash blocks run as they stand, with other ports, and what it names is there."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_model import Export

from recgpt import errors
from recgpt.serving.repository import all_versions
from recgpt.serving.server import TritonServer

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "serving.md").read_text()
START, HEALTH, PUBLISH = re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)
TIMEOUT_S = 60.0  # a busy machine is not what is tested here


@pytest.fixture(scope="module")
def checkout(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    (folder / "recgpt").symlink_to(ROOT / "recgpt")  # the server's Python looks into the folder it is started in first
    shutil.copytree(export.repository, folder / "triton_models")
    shutil.copytree(export.bundle, folder / "artifacts" / "bundle")
    return folder


class Typed(TritonServer):
    """The same server, started as the page says."""

    def __init__(self, checkout: Path) -> None:
        super().__init__(checkout / "triton_models", log=checkout / "log", ready_timeout_s=TIMEOUT_S)
        self._checkout = checkout

    def _command(self) -> list[str]:
        ports = " ".join(option for option in super()._command() if "-port=" in option)
        return ["bash", "-c", f"cd {self._checkout} && exec env {START.strip()} {ports}"]


@pytest.fixture(scope="module")
def server(checkout: Path) -> Iterator[TritonServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        with Typed(checkout) as server:
            yield server


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_health_and_the_metric_of_the_queue_are_where_it_says(server: TritonServer, checkout: Path) -> None:
    metrics = server.metrics_url.removesuffix("/metrics")
    script = HEALTH.replace("http://127.0.0.1:8000", server.http_url).replace("http://127.0.0.1:8002", metrics)
    result = shell(script, checkout)
    assert result.returncode == 0, result.stderr
    assert 'model="interests_2"' in result.stdout


def test_a_version_is_put_beside_the_one_that_is_served(server: TritonServer, checkout: Path) -> None:
    before = all_versions(checkout / "triton_models")
    result = shell(PUBLISH, checkout)
    assert result.returncode == 0, result.stderr
    assert all_versions(checkout / "triton_models") == before  # it is the same version
    assert (checkout / "artifacts" / "next" / "store.json").is_file()


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:deploy|benchmarks|tests|export|triton_models|docs)/[\w./*-]+)`", DOCS))
    named |= {f"docs/{link}" for link in re.findall(r"\]\((\w+\.md)\)", DOCS)}
    assert len(named) > 8
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []
    tests = set(re.findall(r"`(test_[\w*]+\.py)`", DOCS))
    assert [name for name in tests if not list((ROOT / "tests").rglob(name))] == []


def test_every_error_that_is_named_is_one_of_ours() -> None:
    ours = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    named = set(re.findall(r"`(\w+Error)`", DOCS))
    assert len(named) > 8
    assert named <= ours
