"""The ``tritonserver`` command and the context manager around it, with the real server."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from recgpt.errors import LaunchError
from recgpt.serving.repository import write_repository
from recgpt.serving.server import TritonServer


def launch(*arguments):
    """The command as a user types it, in this environment."""
    command = [sys.executable, "-m", "recgpt.serving.launcher", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_stops_with_its_block_even_when_the_block_fails(small_graphs, tmp_path):
    write_repository(tmp_path / "models", {"prefill": small_graphs.files["prefill"]}, 1)
    server = TritonServer(tmp_path / "models", log=tmp_path / "log")
    with pytest.raises(RuntimeError, match="the block"), server:
        pid = server.pid
        assert is_running(pid)
        with urllib.request.urlopen(f"{server.http_url}/v2/models/prefill/versions/1/ready", timeout=10) as answer:
            assert answer.status == 200
        raise RuntimeError("the block")
    assert not is_running(pid)
    with pytest.raises(ProcessLookupError):  # nor is any of the processes that it started
        os.killpg(pid, signal.SIGKILL)
    server.stop()


def test_a_server_ends_when_the_process_that_started_it_is_killed(small_graphs, tmp_path):
    write_repository(tmp_path / "models", {"prefill": small_graphs.files["prefill"]}, 1)
    script = (
        "import sys, pathlib; from recgpt.serving.server import TritonServer\n"
        "with TritonServer(sys.argv[1], log=pathlib.Path(sys.argv[2])) as server:\n"
        "    print(server.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, tmp_path / "models", tmp_path / "log"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        pid = int(owner.stdout.readline())
        with os.fdopen(os.pidfd_open(pid)) as server:
            owner.kill()
            assert select.select([server], [], [], 20)[0], "the server still runs"


def test_a_port_in_use_is_named_and_nothing_is_left_running(served, tmp_path):
    port = int(served.server.url.rpartition(":")[2])
    server = TritonServer(served.repository, grpc_port=port, log=tmp_path / "log")
    with pytest.raises(LaunchError, match=f"port {port} .*in use.*--grpc-port=PORT"), server:
        pass
    assert not is_running(server.pid)


def test_a_damaged_model_ends_the_wait_at_once_with_the_servers_words(small_graphs, tmp_path):
    write_repository(tmp_path / "models", {"prefill": small_graphs.files["prefill"]}, 1)
    (tmp_path / "models" / "prefill" / "1" / "model.onnx").write_bytes(b"no graph")
    server = TritonServer(tmp_path / "models", log=tmp_path / "log", ready_timeout_s=60)
    with pytest.raises(LaunchError, match=r"(?s)ended with code 1.*failed to load 'prefill' version 1"), server:
        pass


def test_a_server_that_is_too_slow_is_stopped(served, tmp_path):
    server = TritonServer(served.repository, log=tmp_path / "log", ready_timeout_s=0)
    with pytest.raises(LaunchError, match="not ready within 0 s"), server:
        pass
    assert not is_running(server.pid)


def test_the_command_refuses_an_empty_repository_in_one_line(tmp_path):
    (tmp_path / "prefill").mkdir()
    (tmp_path / "prefill" / "config.pbtxt").touch()
    finished = launch("--model-repository", str(tmp_path))
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1
    assert "tritonserver: model repository" in finished.stderr
    assert "python export/to_onnx.py ckpt.pt" in finished.stderr


def test_the_command_refuses_a_port_in_use_in_one_line(served):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        finished = launch("--model-repository", str(served.repository), f"--http-port={port}")
    assert finished.returncode == 1
    assert finished.stderr.count("\n") == 1
    assert f"port {port} on 127.0.0.1, for HTTP, is in use" in finished.stderr


def test_the_command_becomes_the_server_itself(served):
    arguments = Path(f"/proc/{served.server.pid}/cmdline").read_bytes().split(b"\0")
    assert arguments[0].endswith(b"pytriton/tritonserver/bin/tritonserver")
    assert "--model-repository" in launch("--help").stderr
