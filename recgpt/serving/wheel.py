"""The Triton server inside the nvidia-pytriton wheel: where its parts are, and the backend folder it is given.

The wheel brings the server and the Python backend, but no ONNX Runtime backend; ours is put beside the Python one.
Knows nothing of ports, models or processes.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recgpt.errors import LaunchError, OutputError
from recgpt.files import atomic_path, sha256
from recgpt.serving import checks

_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, kw_only=True)
class WheelServer:
    """The server of the wheel, found and checked.

    Attributes:
        binary: the server.
        backends: the wheel's folder of backends.
        stub: the program that runs Python models, for the running Python.
        libraries: folders that the loader has to search.
    """

    binary: Path
    backends: Path
    stub: Path
    libraries: tuple[Path, ...]

    @staticmethod
    def find() -> WheelServer:
        """Finds the server in this environment.

        Raises:
            LaunchError: it cannot run here; says what is missing and what brings it.
        """
        checks.check_platform(sys.platform, platform.machine())
        package = importlib.util.find_spec("pytriton")
        checks.check_package("nvidia-pytriton", "serve", installed=package is not None)
        checks.check_package("onnxruntime", "cpu", installed=importlib.util.find_spec("onnxruntime") is not None)
        checks.check_numpy(importlib.metadata.version("numpy"))
        root = Path(next(iter(package.submodule_search_locations or []))) if package else Path()
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        stub = root / "tritonserver" / "python_backend_stubs" / version / _STUB
        checks.check_stub(stub)
        folder = checks.find_libpython(version, Path(sysconfig.get_config_var("LIBDIR") or ""), loads=_loads)
        return WheelServer(
            binary=root / "tritonserver" / "bin" / "tritonserver",
            backends=root / "tritonserver" / "backends",
            stub=stub,
            libraries=(root.parent / "nvidia_pytriton.libs", *([folder] if folder else [])),
        )

    def backend_folder(self, cache: Path) -> Path:
        """Makes the folder of backends below ``cache``, or takes the one that stands there.

        It holds copies, since the server refuses links that lead out of it. Its name tells their contents, so that
        several servers may start at once and a changed file gets a new folder.

        Raises:
            LaunchError: the folder cannot be written.
        """
        files = sorted(path for path in (self.backends / "python").iterdir() if path.is_file())
        sources = {f"python/{path.name}": path for path in files}
        sources[f"python/{_STUB}"] = self.stub
        sources["onnxruntime/model.py"] = Path(__file__).parent / "onnxruntime_backend" / "model.py"
        key = hashlib.sha256("".join(f"{name} {sha256(path)}\n" for name, path in sources.items()).encode()).hexdigest()
        folder = cache / f"backends-{key[:16]}"
        try:
            if not _is_complete(folder, sources):
                _copy(sources, folder)
        except OutputError as error:
            # Another server may have made it in the meantime.
            if not _is_complete(folder, sources):
                raise LaunchError(f"the server's backend folder cannot be made: {error}") from error
        return folder

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """The variables with which the server finds its libraries, and its Python models this environment."""
        libraries = [str(path) for path in self.libraries]
        inherited = [value for value in [base.get("LD_LIBRARY_PATH")] if value]
        environment = dict(base)
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([*libraries, *inherited])
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)])
        environment.pop("PYTHONHOME", None)
        if sys.prefix != sys.base_prefix:
            environment["VIRTUAL_ENV"] = sys.prefix
        return environment


def _is_complete(folder: Path, sources: Mapping[str, Path]) -> bool:
    return all((folder / name).is_file() for name in sources)


def _copy(sources: Mapping[str, Path], folder: Path) -> None:
    with atomic_path(folder) as temporary:
        for name, source in sources.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, temporary / name)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
