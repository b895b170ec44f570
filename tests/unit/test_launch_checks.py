"""Each thing that can keep the laptop's Triton from starting, with its own message; facts are passed in."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from recgpt.errors import LaunchError
from recgpt.serving import checks
from recgpt.serving.arguments import ServerArguments
from recgpt.serving.launcher import find_native, plan


def arguments(*values):
    return ServerArguments(values)


def repository(folder, **versions):
    for name, version in versions.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(f'name: "{name}"')
        if version:
            (folder / name / version).mkdir()
            (folder / name / version / "model.onnx").write_bytes(b"graph")
    return folder


def test_both_spellings_of_an_option_are_read_and_the_last_counts():
    given = arguments("--grpc-port", "1", "--http-port=2", "--grpc-port=3")
    assert given.all("grpc-port") == ["1", "3"]
    assert given.last("grpc-port", "8001") == "3"
    assert given.last("http-port", "8000") == "2"
    assert given.last("metrics-port", "8002") == "8002"


def test_defaults_are_added_only_where_nothing_was_given():
    given = arguments("--http-address", "0.0.0.0")
    assert given.with_defaults([("http-address", "127.0.0.1"), ("grpc-address", "127.0.0.1")]).values == (
        "--http-address",
        "0.0.0.0",
        "--grpc-address=127.0.0.1",
    )


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "aarch64")])
def test_other_platforms_are_refused(system, machine):
    with pytest.raises(LaunchError, match=f"this is {system} {machine}.*container"):
        checks.check_platform(system, machine)
    checks.check_platform("linux", "x86_64")


def test_a_missing_package_names_the_extra():
    with pytest.raises(LaunchError, match=r"nvidia-pytriton.*'\.\[serve\]'"):
        checks.check_package("nvidia-pytriton", "serve", installed=False)
    checks.check_package("nvidia-pytriton", "serve", installed=True)


def test_numpy_2_is_refused():
    for version in ("2.0.0", "2.4.1rc1", "3.0"):
        with pytest.raises(LaunchError, match=r"numpy.*needs numpy below 2.*pip install 'numpy<2'"):
            checks.check_numpy(version)
    checks.check_numpy("1.26.4")


def test_a_python_without_a_stub_is_told_which_ones_have_one(tmp_path):
    for version in ("3.10", "3.11"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "stub").touch()
    checks.check_stub(tmp_path / "3.11" / "stub")
    with pytest.raises(LaunchError, match=r"Python 3\.99, only for 3\.10, 3\.11"):
        checks.check_stub(tmp_path / "3.99" / "stub")


def test_libpython_is_found_beside_python_or_by_the_loader_or_the_package_is_named(tmp_path):
    with pytest.raises(LaunchError, match=r"libpython3\.11\.so\.1\.0 is missing.*Debian.*libpython3\.11"):
        checks.find_libpython("3.11", tmp_path, loads=lambda name: False)
    assert checks.find_libpython("3.11", tmp_path, loads=lambda name: name == "libpython3.11.so.1.0") is None
    (tmp_path / "libpython3.11.so.1.0").touch()
    assert checks.find_libpython("3.11", tmp_path, loads=lambda name: False) == tmp_path


@pytest.mark.parametrize("spelling", ["--{}-port={}", "--{}-port {}"])
@pytest.mark.parametrize("service", ["http", "grpc", "metrics"])
def test_a_port_in_use_is_named_with_its_option(service, spelling):
    with socket.socket() as taken, socket.socket() as other, socket.socket() as third:
        ports, names = {}, [service, *({"http", "grpc", "metrics"} - {service})]
        for name, held in zip(names, (taken, other, third), strict=True):
            held.bind(("127.0.0.1", 0))
            ports[name] = held.getsockname()[1]
        taken.listen()
        other.close()
        third.close()
        typed = [word for name, port in ports.items() for word in spelling.format(name, port).split()]
        with pytest.raises(LaunchError, match=f"port {ports[service]} .*in use.*--{service}-port=PORT"):
            checks.check_ports(arguments(*typed))
        # A service that is switched off takes no port.
        checks.check_ports(arguments(*typed, f"--allow-{service}=false"))


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_what_is_no_port_is_refused(port):
    with pytest.raises(LaunchError, match="expected a port number"):
        checks.check_ports(arguments(f"--http-port={port}"))


def test_a_repository_must_be_given_and_exist(tmp_path):
    with pytest.raises(LaunchError, match="--model-repository triton_models"):
        checks.check_repositories(arguments())
    with pytest.raises(LaunchError, match=f"{tmp_path / 'none'} does not exist"):
        checks.check_repositories(arguments("--model-repository", str(tmp_path / "none")))


def test_a_repository_without_exported_versions_says_how_to_export(tmp_path):
    folder = repository(tmp_path, prefill=None, decode=None)
    with pytest.raises(LaunchError, match=r"decode, prefill; run: python export/to_onnx\.py ckpt\.pt"):
        checks.check_repositories(arguments(f"--model-repository={folder}"))


def test_one_model_without_a_version_is_named_unless_the_server_loads_on_demand(tmp_path):
    folder = repository(tmp_path, prefill="3", decode=None)
    (folder / "decode" / "0").mkdir()
    (folder / "decode" / "7").mkdir()  # empty: an export that was cut short by hand
    with pytest.raises(LaunchError, match="no exported version of decode;"):
        checks.check_repositories(arguments(f"--model-repository={folder}"))
    checks.check_repositories(arguments(f"--model-store={folder}", "--model-control-mode=explicit"))


def test_only_a_native_program_is_taken_for_triton(tmp_path):
    script, native = tmp_path / "a" / "tritonserver", tmp_path / "b" / "tritonserver"
    for program, content in ((script, b"#!/usr/bin/env python\n"), (native, b"\x7fELF...")):
        program.parent.mkdir()
        program.write_bytes(content)
        program.chmod(0o755)
    path = os.pathsep.join([str(script.parent), str(native.parent)])
    assert find_native(str(script.parent)) is None
    assert find_native(path) == native
    command = plan(["--anything"], {"PATH": path}, cache=tmp_path / "cache")
    assert (command.program, command.arguments, command.environment) == (native, ("--anything",), {"PATH": path})


def test_the_wheels_server_gets_this_environment_and_stays_on_this_machine(tmp_path):
    folder = repository(tmp_path / "models", prefill="1")
    typed = [f"--model-repository={folder}", "--http-address=0.0.0.0", "--http-port=39000", "--grpc-port=39001"]
    environment = {"PATH": "/nowhere", "LD_LIBRARY_PATH": "/mine", "PYTHONHOME": "/else"}
    command = plan([*typed, "--metrics-port=39002"], environment, cache=tmp_path / "cache")
    given = ServerArguments(command.arguments)
    assert given.all("http-address") == ["0.0.0.0"]
    assert given.all("grpc-address") == given.all("metrics-address") == ["127.0.0.1"]
    backends = Path(given.last("backend-directory", ""))
    assert (backends / "onnxruntime" / "model.py").is_file()
    assert (backends / "python" / "libtriton_python.so").is_file()
    assert command.environment["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/nowhere"]
    assert command.environment["LD_LIBRARY_PATH"].endswith(os.pathsep + "/mine")
    assert "PYTHONHOME" not in command.environment


def test_the_backend_folder_is_made_once_and_again_if_damaged(tmp_path):
    folder = repository(tmp_path / "models", prefill="1")
    typed = [f"--model-repository={folder}", "--http-port=39000", "--grpc-port=39001", "--metrics-port=39002"]

    def made():
        command = plan(typed, {"PATH": ""}, cache=tmp_path / "cache")
        return Path(ServerArguments(command.arguments).last("backend-directory", ""))

    first = made()
    stamp = first.stat().st_mtime_ns
    assert made() == first
    assert first.stat().st_mtime_ns == stamp
    (first / "onnxruntime" / "model.py").unlink()
    assert made() == first
    assert (first / "onnxruntime" / "model.py").is_file()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]


def test_a_cache_that_cannot_be_written_is_a_launch_error(tmp_path):
    folder = repository(tmp_path / "models", prefill="1")
    (tmp_path / "cache").write_text("a file, not a folder")
    typed = [f"--model-repository={folder}", "--http-port=39000", "--grpc-port=39001", "--metrics-port=39002"]
    with pytest.raises(LaunchError, match="backend folder cannot be made"):
        plan(typed, {"PATH": ""}, cache=tmp_path / "cache")
