"""A Triton server as a context manager: started on free ports, waited for, always stopped."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from recgpt.errors import LaunchError
from recgpt.serving.checks import LOOPBACK
from recgpt.serving.launcher import END_WITH_PARENT

POLL_S = 0.05
STOP_S = 20
TAIL_LINES = 25

_ROUTINE = re.compile(r"I\d{4} |[|+]")


class TritonServer:
    """Serves a model repository while the block runs.

    Args:
        model_repository: folder such as ``triton_models``.
        grpc_port: None takes a free one; the HTTP and metrics ports are always free ones.
        log: file for what the server says; what stood in it is replaced.
        ready_timeout_s: how long to wait for all models to be ready.
        explicit: whether models may be loaded and unloaded while it runs, as publishing to it does.
        arguments: more of the server's own options, such as ``--grpc-use-ssl=true``.

    Attributes:
        url: ``host:port`` of gRPC, for clients.
        http_url: address of HTTP, with health under ``/v2/health/ready``.
        metrics_url: address of the Prometheus metrics.
        pid: of the server; 0 before the block.

    Example:
        >>> with TritonServer("triton_models", log=Path("server.log")) as server:
        ...     client = RecallClient(server.url, bundle="artifacts/bundle")
    """

    def __init__(
        self,
        model_repository: str | Path,
        *,
        grpc_port: int | None = None,
        log: Path,
        ready_timeout_s: float = 60.0,
        explicit: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self._arguments = tuple(arguments)
        self._explicit = explicit
        self._http_port, self._metrics_port, free = _free_ports(3)
        self._grpc_port = grpc_port if grpc_port is not None else free
        self._repository = Path(model_repository)
        self._log = Path(log)
        self._ready_timeout_s = ready_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"{LOOPBACK}:{self._grpc_port}"
        self.http_url = f"http://{LOOPBACK}:{self._http_port}"
        self.metrics_url = f"http://{LOOPBACK}:{self._metrics_port}/metrics"

    @property
    def pid(self) -> int:
        """Process id of the server; 0 before the block."""
        return self._process.pid if self._process is not None else 0

    def __enter__(self) -> Self:
        """Starts the server; LaunchError, with the end of its log, if it dies or is not ready in time."""
        with self._log.open("wb") as log:
            # A session of its own: the server's helper processes can be ended with it, and a Ctrl-C is ours to handle.
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # For when this process is killed and cannot stop it.
                env=os.environ | {END_WITH_PARENT: "1"},
            )
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.stop)
            self._wait_until_ready(self._process)
            on_failure.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the server."""
        self.stop()

    def stop(self) -> None:
        """Asks the server to end, waits, and ends it and its helpers by force if it does not; harmless twice."""
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # A server that was killed could not end its helpers.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def log_tail(self) -> str:
        """The last things the server said, without its tables and what it says when all is well."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.is_file() else []
        return "\n".join([line for line in lines if line and not _ROUTINE.match(line)][-TAIL_LINES:])

    def _command(self) -> list[str]:
        script = Path(sys.prefix, "bin", "tritonserver")
        command = [str(script)] if script.is_file() else [sys.executable, "-m", "recgpt.serving.launcher"]
        return [
            *command,
            f"--model-repository={self._repository}",
            f"--http-port={self._http_port}",
            f"--grpc-port={self._grpc_port}",
            f"--metrics-port={self._metrics_port}",
            f"--http-address={LOOPBACK}",
            f"--grpc-address={LOOPBACK}",
            f"--metrics-address={LOOPBACK}",
            "--exit-timeout-secs=5",
            *(["--model-control-mode=explicit", "--load-model=*"] if self._explicit else []),
            *self._arguments,
        ]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {self._ready_timeout_s:.0f} s")
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise self._failure(f"ended with code {process.wait(timeout=POLL_S)}")

    def _is_ready(self) -> bool:
        # Ready means that every model is loaded; gRPC listens before HTTP does, and metrics are the last to come up.
        return self._answers(self._http_port, "/v2/health/ready") and self._answers(self._metrics_port, "/metrics")

    def _failure(self, what: str) -> LaunchError:
        return LaunchError(f"the server for {self.url} {what}. Its log, {self._log}, ends:\n{self.log_tail()}")

    def _answers(self, port: int, path: str) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def _free_ports(number: int) -> list[int]:
    # All held at once, so that they differ.
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for held in sockets:
            held.bind((LOOPBACK, 0))
        return [held.getsockname()[1] for held in sockets]
