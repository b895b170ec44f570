from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recgpt import extras
from recgpt.errors import DependencyError

HIDE = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
from recgpt.errors import DependencyError
try:
    {code}
except DependencyError as error:
    print(error)
"""


@pytest.fixture
def site_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pretended distributions on the path of this test."""
    monkeypatch.syspath_prepend(tmp_path)
    extras.refuse_conflicts.cache_clear()
    yield tmp_path
    extras.refuse_conflicts.cache_clear()


def pretend_installed(folder: Path, name: str) -> None:
    info = folder / f"{name.replace('-', '_')}-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")


def message_without(hidden: str, code: str) -> str:
    """What a fresh process says in which a package cannot be imported."""
    script = HIDE.format(hidden=hidden, code=code)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return result.stdout


def test_an_installed_package_is_imported() -> None:
    assert extras.require("faiss").__name__ == "faiss"
    assert extras.require("tritonclient.grpc").__name__ == "tritonclient.grpc"


@pytest.mark.parametrize(
    ("hidden", "code", "extra"),
    [
        ("faiss", "import recgpt.recall.index as i, numpy as n; i.ItemIndex.build(n.zeros((3, 2)))", "cpu"),
        ("onnxruntime", "from recgpt.extras import require; require('onnxruntime')", "cpu"),
        ("tritonclient", "from recgpt.extras import require; require('tritonclient.grpc')", "client"),
        ("pyarrow", "from recgpt.extras import require; require('pyarrow.parquet')", "train"),
    ],
)
def test_a_missing_package_names_its_extra(hidden: str, code: str, extra: str) -> None:
    message = message_without(hidden, code)
    assert f"'{hidden}'" in message
    assert f"pip install -c constraints.txt '.[{extra}]'" in message


def test_a_command_without_its_package_names_the_extra() -> None:
    command = ["evaluate", "ckpt.pt", "--data", "data.txt"]
    code = f"import recgpt.cli as cli\n    with cli.naming_extras(): cli.app({command}, standalone_mode=False)"
    message = message_without("torch", code)
    assert "'torch'" in message
    assert "'.[train]'" in message


def test_every_extra_that_is_named_exists() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    brought = project["optional-dependencies"]
    distributions = {
        "pytriton": "nvidia-pytriton",
        "faiss": "faiss-",
        "grpc": "grpcio",
        "mlperf_loadgen": "mlcommons-loadgen",
    }
    for module, names in extras._EXTRAS.items():
        for name in names:
            wanted = distributions.get(module, module)
            assert any(line.startswith(wanted) for line in brought[name]), f"{module} is not in the extra {name}"


def test_a_fault_inside_of_an_installed_package_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "matplotlib.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all") as caught:
        extras.require("matplotlib")
    assert not isinstance(caught.value, DependencyError)


@pytest.mark.parametrize(
    ("module", "first", "second"),
    [("faiss", "faiss-cpu", "faiss-gpu"), ("onnxruntime", "onnxruntime", "onnxruntime-gpu")],
)
def test_two_of_a_kind_are_refused_by_name(site_folder: Path, module: str, first: str, second: str) -> None:
    extras.require(module)
    extras.refuse_conflicts.cache_clear()
    pretend_installed(site_folder, first)
    pretend_installed(site_folder, second)
    with pytest.raises(DependencyError, match=f"{first} and {second} are installed together.*pip uninstall"):
        extras.require(module)
