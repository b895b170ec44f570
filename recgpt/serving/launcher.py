"""The ``tritonserver`` command of the project's environment.

A native server is started as it is. Where there is none, the one inside the nvidia-pytriton wheel is started with what
it needs to serve ``triton_models/`` unchanged. Either way the server replaces this process, so signals reach it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recgpt.errors import LaunchError
from recgpt.serving import checks
from recgpt.serving.arguments import ServerArguments
from recgpt.serving.wheel import WheelServer

# Environment variable: if set, the server is asked to end when the process that started it is gone.
END_WITH_PARENT = "RECGPT_END_WITH_PARENT"

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>; what it sets outlives execve

CONTAINER_SERVER = Path("/opt/tritonserver/bin/tritonserver")


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to execute."""

    program: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def main() -> int:
    """Replaces this process by a Triton server; returns only if that cannot be done, with a message on stderr."""
    try:
        command = plan(sys.argv[1:], os.environ, cache=Path(sys.prefix, "share", "recgpt", "triton"))
    except LaunchError as error:
        print(f"tritonserver: {error}", file=sys.stderr)
        return 1
    if os.environ.get(END_WITH_PARENT) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        os.execve(command.program, [str(command.program), *command.arguments], dict(command.environment))
    except OSError as error:
        print(f"tritonserver: {command.program} cannot be executed: {error.strerror}", file=sys.stderr)
        return 1


def plan(arguments: Sequence[str], environment: Mapping[str, str], *, cache: Path) -> Command:
    """Decides what to execute, and checks that it can serve.

    Args:
        arguments: of the server.
        environment: variables of this process.
        cache: folder for what is prepared once.

    Raises:
        LaunchError: the server cannot run here, or with these arguments.
    """
    native = find_native(environment.get("PATH", os.defpath))
    if native is not None:
        return Command(program=native, arguments=tuple(arguments), environment=environment)
    given = ServerArguments(tuple(arguments))
    server = WheelServer.find()
    if not given.has("help"):
        checks.check_repositories(given)
        checks.check_ports(given)
    # This server is older than known security fixes, so it stays on this machine unless told otherwise, and what nobody
    # needs and attacks went through is closed by a key that nobody knows.
    closed = f"shared-memory,trace,logging:closed={secrets.token_hex(16)}"
    complete = given.with_defaults(
        [
            ("backend-directory", str(server.backend_folder(cache))),
            ("http-address", checks.LOOPBACK),
            ("grpc-address", checks.LOOPBACK),
            ("metrics-address", checks.LOOPBACK),
            ("grpc-restricted-protocol", closed),
            ("http-restricted-api", closed),
            ("allow-gpu-metrics", str(Path("/proc/driver/nvidia").exists()).lower()),
        ]
    )
    return Command(program=server.binary, arguments=complete.values, environment=server.environment(environment))


def find_native(path: str) -> Path | None:
    """The server of NVIDIA's container, or one on ``path``; scripts, such as this launcher, do not count."""
    candidates = [CONTAINER_SERVER, *(Path(folder, "tritonserver") for folder in path.split(os.pathsep) if folder)]
    return next((candidate for candidate in candidates if _is_native(candidate)), None)


def _is_native(program: Path) -> bool:
    if not (program.is_file() and os.access(program, os.X_OK)):
        return False
    with program.open("rb") as file:
        return file.read(4) == b"\x7fELF"


if __name__ == "__main__":
    sys.exit(main())
