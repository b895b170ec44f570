"""Encrypted connections to a real server, with real certificates: right, wrong, expired and missing ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from tiny_model import Export, Graphs, bundle_copy

from recgpt import AsyncRecallClient, RecallClient, TlsOptions
from recgpt.engine import Engine
from recgpt.errors import CertificateError, ConfigError, ServerUnavailableError
from recgpt.serving.repository import write_repository
from recgpt.serving.server import TritonServer

VERSION = 20261121090000
TIMEOUT_S = 20.0  # a busy machine is not what is tested here
HOST = "127.0.0.1"
PAST = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Pem:
    """Files of one certificate."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates and writes them to files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._ca, self._folder, self._count = trustme.CA(), folder, 0
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def sign(self, name: str = HOST, *, expired: bool = False) -> Pem:
        times = {"not_before": PAST, "not_after": PAST + timedelta(days=1)} if expired else {}
        issued = self._ca.issue_cert(name, **times)
        self._count += 1
        pem = Pem(self._folder / f"{self._count}.pem", self._folder / f"{self._count}.key")
        issued.cert_chain_pems[0].write_to_path(pem.certificate)
        issued.private_key_pem.write_to_path(pem.key)
        return pem


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def repository(small_graphs: Graphs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls_models") / "models"
    write_repository(folder, small_graphs.files, VERSION)
    return folder


@pytest.fixture(scope="module")
def bundle(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls_bundle") / "bundle"
    return bundle_copy(export.bundle, folder, version=VERSION, num_interests=(2,))


def serve(repository: Path, pem: Pem, ca: Path | None = None) -> TritonServer:
    """A server that shows a certificate, and with ``ca`` wants one of its clients."""
    flags = ["--grpc-use-ssl=true", f"--grpc-server-cert={pem.certificate}", f"--grpc-server-key={pem.key}"]
    if ca is not None:
        flags += ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={ca}"]
    log = repository.parent / f"{pem.certificate.stem}-{ca is not None}.log"
    return TritonServer(repository, log=log, arguments=flags)


@pytest.fixture(scope="module")
def encrypted(repository: Path, authority: Authority) -> Iterator[TritonServer]:
    with serve(repository, authority.sign()) as server:
        yield server


@pytest.fixture(scope="module")
def mutual(repository: Path, authority: Authority) -> Iterator[TritonServer]:
    with serve(repository, authority.sign(), authority.ca) as server:
        yield server


def assert_recalls(url: str, bundle: Path, tls: TlsOptions, engine: Engine) -> None:
    expected = engine.recall(["i5", "i7"], user_id=300).item_ids
    with RecallClient(url, bundle=bundle, tls=tls, timeout_s=TIMEOUT_S) as client:
        assert client.recall(["i5", "i7"], user_id=300).item_ids == expected

    async def ask() -> None:
        async with AsyncRecallClient(url, bundle=bundle, tls=tls, timeout_s=TIMEOUT_S) as client:
            assert (await client.recall(["i5", "i7"], user_id=300)).item_ids == expected

    asyncio.run(ask())


def assert_refused(url: str, bundle: Path, tls: TlsOptions | None, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        RecallClient(url, bundle=bundle, tls=tls, timeout_s=TIMEOUT_S)

    async def ask() -> None:
        async with AsyncRecallClient(url, bundle=bundle, tls=tls, timeout_s=TIMEOUT_S):
            pass

    with pytest.raises(error, match=words):
        asyncio.run(ask())


def test_recall_over_tls(encrypted: TritonServer, bundle: Path, authority: Authority, engine: Engine) -> None:
    assert_recalls(encrypted.url, bundle, TlsOptions(ca=authority.ca), engine)


def test_a_server_of_another_authority_is_refused(encrypted: TritonServer, bundle: Path, strangers: Authority) -> None:
    assert_refused(encrypted.url, bundle, TlsOptions(ca=strangers.ca), CertificateError, "authority")


def test_a_client_without_tls_is_told(encrypted: TritonServer, bundle: Path) -> None:
    assert_refused(encrypted.url, bundle, None, ServerUnavailableError, "tls")


def test_recall_over_mutual_tls(mutual: TritonServer, bundle: Path, authority: Authority, engine: Engine) -> None:
    own = authority.sign("client")
    tls = TlsOptions(ca=authority.ca, certificate=own.certificate, key=own.key)
    assert_recalls(mutual.url, bundle, tls, engine)


def test_clients_without_a_good_certificate_are_refused(
    mutual: TritonServer, bundle: Path, authority: Authority, strangers: Authority
) -> None:
    assert_refused(mutual.url, bundle, TlsOptions(ca=authority.ca), CertificateError, "certificate of this client")
    for own in (strangers.sign("client"), authority.sign("client", expired=True)):
        tls = TlsOptions(ca=authority.ca, certificate=own.certificate, key=own.key)
        assert_refused(mutual.url, bundle, tls, CertificateError, "expired")


def test_servers_with_an_expired_certificate_or_another_hosts_are_refused(
    repository: Path, bundle: Path, authority: Authority
) -> None:
    for pem in (authority.sign(expired=True), authority.sign("example.org")):
        with serve(repository, pem) as server:
            assert_refused(server.url, bundle, TlsOptions(ca=authority.ca), CertificateError, "expired")


def test_files_that_do_not_fit_are_refused_before_anything_is_sent(authority: Authority, tmp_path: Path) -> None:
    one, other = authority.sign(), authority.sign()
    (tmp_path / "text.pem").write_text("no certificate")
    for options in (
        {"certificate": one.certificate},
        {"certificate": one.certificate, "key": other.key},
        {"ca": tmp_path / "missing.pem"},
        {"ca": tmp_path / "text.pem"},
    ):
        with pytest.raises(ConfigError, match=r"\.pem|\.key"):
            TlsOptions(**options)
