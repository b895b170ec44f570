"""``deploy/serve.sh``, the command of the container, with the real server: what is closed, and what is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme
from tiny_model import Export, random_requests
from tritonclient import grpc as grpcclient
from tritonclient.utils import InferenceServerException

from recgpt import RecallClient, TlsOptions
from recgpt.backends.triton_network import TritonNetwork
from recgpt.bundle import Bundle
from recgpt.engine import Engine
from recgpt.errors import CertificateError, ServerRefusedError, ServerUnavailableError
from recgpt.publishing import Publisher
from recgpt.serving.server import TritonServer

SCRIPT = Path(__file__).parents[2] / "deploy" / "serve.sh"
TIMEOUT_S = 60.0  # a busy machine is not what is tested here


class Hardened(TritonServer):
    """The same server, started by the script of the container."""

    def _command(self) -> list[str]:
        ports = [option for option in super()._command() if "-port=" in option]
        return ["sh", str(SCRIPT), *ports]


@pytest.fixture(scope="module")
def published(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and a model repository in which the bundle is published."""
    folder = tmp_path_factory.mktemp("hardened")
    Publisher(folder / "bundles", model_repository=folder / "models", say=lambda text: None).publish(export.bundle)
    return folder


@pytest.fixture(scope="module")
def environment(published: Path) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("RECGPT_MODELS", str(published / "models"))
        yield patch


def serve(published: Path, name: str) -> Hardened:
    return Hardened(published / "models", log=published / f"{name}.log", ready_timeout_s=TIMEOUT_S)


@pytest.fixture(scope="module")
def hardened(published: Path, environment: pytest.MonkeyPatch) -> Iterator[Hardened]:
    with serve(published, "fixed") as server:
        yield server


def assert_recalls(url: str, published: Path, engine: Engine, tls: TlsOptions | None = None) -> None:
    requests = random_requests(5, seed=3)
    with RecallClient(url, bundle=published / "bundles", tls=tls, timeout_s=TIMEOUT_S) as client:
        found = client.recall_many(requests)
    assert [one.item_ids for one in found] == [one.item_ids for one in engine.recall_many(requests)]


def test_clients_are_served(hardened: Hardened, published: Path, engine: Engine) -> None:
    assert_recalls(hardened.url, published, engine)


def test_it_listens_on_this_machine_only(hardened: Hardened) -> None:
    ports = {int(url.rpartition(":")[2].partition("/")[0]) for url in (hardened.url, hardened.http_url)}
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    found = {(address, int(port, 16)) for address, _, port in (entry.partition(":") for entry in listening)}
    assert {address for address, port in found if port in ports} == {"0100007F"}


def test_the_queue_is_bounded(hardened: Hardened) -> None:
    with closing(grpcclient.InferenceServerClient(hardened.url)) as client:
        config = client.get_model_config("prefill", client_timeout=TIMEOUT_S).config
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 512


def test_over_http_there_is_health_and_nothing_else(hardened: Hardened) -> None:
    with urllib.request.urlopen(f"{hardened.http_url}/v2/health/ready", timeout=TIMEOUT_S) as answer:
        assert answer.status == 200
    for path, body in (
        ("/v2", None),
        ("/v2/models/prefill", None),
        ("/v2/models/prefill/config", None),
        ("/v2/models/prefill/stats", None),
        ("/v2/models/prefill/infer", {}),
        ("/v2/repository/index", {}),
        ("/v2/repository/models/prefill/unload", {}),
        ("/v2/systemsharedmemory/region/x/register", {"key": "/x", "byte_size": 8}),
        ("/v2/trace/setting", None),
        ("/v2/logging", None),
    ):
        content = None if body is None else json.dumps(body).encode()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{hardened.http_url}{path}", content, timeout=TIMEOUT_S)
        refused.value.close()
        assert refused.value.code == 403, path


def test_shared_memory_traces_and_logging_are_closed(hardened: Hardened) -> None:
    with closing(grpcclient.InferenceServerClient(hardened.url)) as client:
        for call in (
            lambda: client.register_system_shared_memory("x", "/x", 8, client_timeout=TIMEOUT_S),
            lambda: client.get_system_shared_memory_status(client_timeout=TIMEOUT_S),
            lambda: client.get_cuda_shared_memory_status(client_timeout=TIMEOUT_S),
            lambda: client.update_trace_settings(settings={"trace_file": "/x"}, client_timeout=TIMEOUT_S),
            lambda: client.update_log_settings({"log_file": "/x"}, client_timeout=TIMEOUT_S),
        ):
            with pytest.raises(InferenceServerException, match="restricted"):
                call()


def test_models_of_the_start_stay(hardened: Hardened, published: Path, other_bundle: Path) -> None:
    publisher = Publisher(
        published / "bundles", model_repository=published / "models", urls=[hardened.url], say=lambda text: None
    )
    with pytest.raises(ServerRefusedError, match="--model-control-mode=explicit"):
        publisher.publish(other_bundle)


def test_with_a_key_models_are_published_and_without_it_they_are_not(
    published: Path, environment: pytest.MonkeyPatch, export: Export, other_bundle: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("a long secret\n")
    command = [str(Path(sys.executable).with_name("recgpt")), "bundle", "publish", str(other_bundle)]
    command += ["--store", str(published / "bundles"), "--model-repository", str(published / "models")]
    with environment.context() as patch:
        patch.setenv("RECGPT_CONTROL_KEY_FILE", str(key))
        with serve(published, "published") as server:

            def publish(**variables: str) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    [*command, "--url", server.url],
                    env=os.environ | variables,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=TIMEOUT_S * 2,
                )

            for variables in ({}, {"RECGPT_CONTROL_KEY": "a guess"}):
                refused = publish(**variables)
                assert refused.returncode != 0
                assert "RECGPT_CONTROL_KEY" in refused.stderr
            assert Bundle.open(published / "bundles").manifest.version == Bundle.open(export.bundle).manifest.version
            assert publish(RECGPT_CONTROL_KEY="a long secret").returncode == 0
            publisher = Publisher(
                published / "bundles",
                model_repository=published / "models",
                urls=[server.url],
                network=TritonNetwork(control_key="a long secret"),
                say=lambda text: None,
            )
            assert publisher.roll_back() == Bundle.open(export.bundle).manifest.version


def test_with_certificates_only_those_who_trust_them_and_are_trusted_get_in(
    published: Path, environment: pytest.MonkeyPatch, engine: Engine, tmp_path: Path
) -> None:
    authority, folder = trustme.CA(), tmp_path / "tls"
    folder.mkdir()
    ours, theirs = authority.issue_cert("127.0.0.1"), authority.issue_cert("client")
    ours.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    ours.private_key_pem.write_to_path(folder / "tls.key")
    authority.cert_pem.write_to_path(folder / "client-ca.crt")
    theirs.cert_chain_pems[0].write_to_path(folder / "client.crt")
    theirs.private_key_pem.write_to_path(folder / "client.key")
    known = TlsOptions(ca=folder / "client-ca.crt", certificate=folder / "client.crt", key=folder / "client.key")
    with environment.context() as patch:
        patch.setenv("RECGPT_TLS_DIR", str(folder))
        with serve(published, "encrypted") as server:
            assert_recalls(server.url, published, engine, known)
            for unknown in (None, TlsOptions(ca=folder / "client-ca.crt")):
                with pytest.raises((CertificateError, ServerUnavailableError)):
                    RecallClient(server.url, bundle=published / "bundles", tls=unknown, timeout_s=2.0)
