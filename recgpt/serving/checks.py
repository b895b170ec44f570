"""What must hold before a Triton server is started here, each with the message for when it does not.

Every check takes the facts as arguments, so that none needs a broken machine to be tried. Knows nothing of processes.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

from recgpt.errors import LaunchError
from recgpt.serving.arguments import ServerArguments
from recgpt.serving.repository import CONFIG, model_versions

LOOPBACK = "127.0.0.1"

_CONTAINER = "use NVIDIA's container instead, see triton_models/README.md"

# Service -> (option of the port, Triton's default, option that switches the service, option of the address).
_PORTS = {
    "HTTP": ("http-port", "8000", "allow-http", "http-address"),
    "gRPC": ("grpc-port", "8001", "allow-grpc", "grpc-address"),
    "metrics": ("metrics-port", "8002", "allow-metrics", "metrics-address"),
}


def check_platform(system: str, machine: str) -> None:
    """LaunchError unless the wheel's server can run on this system (``sys.platform``) and machine."""
    if system != "linux" or machine != "x86_64":
        raise LaunchError(f"nvidia-pytriton's server runs on linux x86_64, this is {system} {machine}; {_CONTAINER}")


def check_package(name: str, extra: str, *, installed: bool) -> None:
    """LaunchError unless a distribution is installed."""
    if not installed:
        raise LaunchError(
            f"{name} is not installed in this environment; run: pip install -c constraints.txt '.[{extra}]'"
        )


def check_numpy(version: str) -> None:
    """LaunchError for numpy 2, with which the server's Python backend answers with empty tensors and no error."""
    if int(version.partition(".")[0]) >= 2:
        raise LaunchError(
            f"numpy {version} is installed; nvidia-pytriton's Python backend needs numpy below 2 and otherwise sends "
            f"empty answers without an error; run: pip install 'numpy<2'"
        )


def check_stub(stub: Path) -> None:
    """LaunchError unless the wheel brings a stub for the running Python; ``stub`` is .../<X.Y>/<file>."""
    if not stub.is_file():
        folders = stub.parent.parent
        found = sorted(path.name for path in folders.iterdir()) if folders.is_dir() else []
        raise LaunchError(
            f"nvidia-pytriton has no Python backend for Python {stub.parent.name}, only for "
            f"{', '.join(found) or 'none'}; make the environment with one of these"
        )


def find_libpython(version: str, folder: Path, *, loads: Callable[[str], bool]) -> Path | None:
    """Finds the shared library of the running Python, which the server's Python backend links.

    Args:
        version: ``X.Y``.
        folder: where this Python keeps its libraries (``LIBDIR``).
        loads: whether the system's loader finds a library of that name.

    Returns:
        The folder to add to the loader's path, or None if the loader finds the library by itself.

    Raises:
        LaunchError: there is none.
    """
    name = f"libpython{version}.so.1.0"
    if (folder / name).is_file():
        return folder
    if loads(name):
        return None
    raise LaunchError(
        f"{name} is missing; the server's Python backend links it. Install it: Debian, Ubuntu: apt-get install "
        f"libpython{version}; Fedora: dnf install python{version}-libs; pyenv: "
        f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {version}"
    )


def check_ports(arguments: ServerArguments) -> None:
    """LaunchError if a port that the server will listen on is taken, or is no port."""
    for service, (option, default, switch, address) in _PORTS.items():
        if arguments.allows(switch, default=True) and not arguments.has(f"reuse-{option}"):
            check_port(service, option, arguments.last(option, default), arguments.last(address, LOOPBACK))


def check_port(service: str, option: str, port: str, address: str) -> None:
    """LaunchError if one port cannot be listened on."""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise LaunchError(f"--{option}={port}: expected a port number, 1 to 65535")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # As the server does: connections of a former server that are still closing do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, int(port)))
        except OSError as error:
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            raise LaunchError(
                f"port {port} on {address}, for {service}, {reason}; stop what listens there or choose another with "
                f"--{option}=PORT"
            ) from error


def check_repositories(arguments: ServerArguments) -> None:
    """LaunchError if no model repository was given, one is missing, or a model has no exported version."""
    repositories = arguments.repositories()
    if not repositories:
        raise LaunchError("no model repository was given; run: tritonserver --model-repository triton_models")
    local = [Path(name) for name in repositories if "://" not in name]
    for repository in local:
        check_repository(repository, all_models=arguments.last("model-control-mode", "none") == "none")


def check_repository(repository: Path, *, all_models: bool) -> None:
    """LaunchError if a repository is missing, or if models of it have no exported version.

    Args:
        repository: its folder.
        all_models: whether the server will load every model in it; one without a version then keeps it from starting.
    """
    if not repository.is_dir():
        raise LaunchError(f"model repository {repository} does not exist; expected a folder such as triton_models")
    models = sorted(path for path in repository.iterdir() if (path / CONFIG).is_file())
    empty = [model for model in models if not model_versions(model)]
    if len(empty) == len(models) or (empty and all_models):
        raise LaunchError(
            f"model repository {repository} has no exported version of {_names(empty) or 'any model'}; run: "
            f"python export/to_onnx.py ckpt.pt"
        )


def _names(models: Iterable[Path]) -> str:
    return ", ".join(model.name for model in models)
