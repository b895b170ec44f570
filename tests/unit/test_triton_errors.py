"""Every gRPC status has its error, and Triton's words for UNAVAILABLE are told apart."""

from __future__ import annotations

import grpc
import pytest

from recgpt.backends.base import ModelSpec
from recgpt.backends.triton import TritonBackend
from recgpt.backends.triton_errors import STATUS_ERRORS, server_error
from recgpt.errors import (
    CertificateError,
    ConfigError,
    ModelUnavailableError,
    RecGPTError,
    RequestError,
    RequestTooLargeError,
    ServerError,
    ServerOverloadedError,
    ServerRefusedError,
    ServerTimeoutError,
    ServerUnavailableError,
)


def test_the_table_names_every_status_and_nothing_else():
    assert set(STATUS_ERRORS) == {code.name for code in grpc.StatusCode}


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_every_status_gives_one_of_our_errors_with_the_servers_words_the_address_and_advice(code):
    error = server_error(str(code), "the server's words", url="host:8001", what="model prefill version 3")
    assert isinstance(error, RecGPTError)
    for part in ("the server's words", "host:8001", "model prefill version 3", code.name, STATUS_ERRORS[code.name][1]):
        assert part in str(error)


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", ServerUnavailableError),
        ("UNAVAILABLE", "GRPC server is shutting down and has stopped accepting new requests.", ServerUnavailableError),
        ("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size", ServerOverloadedError),
        ("UNAVAILABLE", "Request timeout expired", ServerTimeoutError),
        ("UNAVAILABLE", "Request for unknown model: 'decode' version 3 is not at ready state", ModelUnavailableError),
        ("NOT_FOUND", "Request for unknown model: 'decode' is not found", ModelUnavailableError),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", ServerTimeoutError),
        ("CANCELLED", "CANCELLED", ServerUnavailableError),
        ("RESOURCE_EXHAUSTED", "too many", ServerOverloadedError),
        ("RESOURCE_EXHAUSTED", "CLIENT: Sent message larger than max (9 vs. 8)", RequestTooLargeError),
        ("UNAUTHENTICATED", "no", ServerRefusedError),
        ("PERMISSION_DENIED", "no", ServerRefusedError),
        ("INVALID_ARGUMENT", "unexpected shape", RequestError),
        ("INTERNAL", "boom", ServerError),
    ],
)
def test_status_and_words_decide_the_class(status, text, expected):
    assert type(server_error(f"StatusCode.{status}", text, url="u", what="w")) is expected


CLOSED = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed"
HANDSHAKE = "failed to connect to all addresses; last error: UNKNOWN: Ssl handshake failed: CERTIFICATE_VERIFY_FAILED"


@pytest.mark.parametrize(
    ("text", "encrypted", "expected", "advice"),
    [
        (CLOSED, False, ServerUnavailableError, "tls options"),
        (CLOSED, True, CertificateError, "certificate of this client"),
        (HANDSHAKE, True, CertificateError, "expired"),
        ("Hostname Verification Check failed.", True, CertificateError, "host name"),
        ("failed to connect: Connection refused", True, ServerUnavailableError, "tritonserver"),
    ],
)
def test_encryption_that_fails_is_told_from_a_server_that_is_away(text, encrypted, expected, advice):
    error = server_error("StatusCode.UNAVAILABLE", text, url="u", what="w", encrypted=encrypted)
    assert type(error) is expected
    assert advice in str(error)


def test_a_failure_without_a_status_is_a_server_error():
    assert type(server_error(None, "broken", url="u", what="w")) is ServerError


@pytest.mark.parametrize("url", ["localhost", "http://localhost:8001", "localhost:", "localhost:grpc", ""])
def test_an_address_without_host_and_port_is_refused(url):
    spec = ModelSpec(num_items=3, num_users=1, max_length=4, hidden_size=2, num_blocks=1, num_heads=1)
    with pytest.raises(ConfigError, match="expected host:port"):
        TritonBackend(url, spec, fused=(), model_version="1")
