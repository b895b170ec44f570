"""What a Triton server's refusals mean: every gRPC status to one error of this package.

Knows the names of the statuses and the words Triton uses; imports neither gRPC nor the client library.
"""

from __future__ import annotations

import re

from recgpt.errors import (
    CertificateError,
    ModelUnavailableError,
    RequestError,
    RequestTooLargeError,
    ServerError,
    ServerOverloadedError,
    ServerRefusedError,
    ServerTimeoutError,
    ServerUnavailableError,
)

_START = "start one with: tritonserver --model-repository triton_models"
_LATER = "try again later, send fewer requests at a time, or add servers"
_EXPLICIT = "start the server with --model-control-mode=explicit --load-model='*' to change its models while it runs"
_REPORT = "see the server's log"
_MISFIT = "the request does not fit the model that is served; use the bundle of the same export"

STATUS_ERRORS: dict[str, tuple[type[ServerError | RequestError], str]] = {
    "OK": (ServerError, "the client library took an answer for an error; report it"),
    "CANCELLED": (ServerUnavailableError, "the call was cancelled, as a server does that shuts down; try again"),
    "UNKNOWN": (ServerError, _REPORT),
    "INVALID_ARGUMENT": (RequestError, _MISFIT),
    "DEADLINE_EXCEEDED": (ServerTimeoutError, "raise timeout_s, or send fewer requests at a time"),
    "NOT_FOUND": (ModelUnavailableError, "serve the triton_models/ of the bundle's export"),
    "ALREADY_EXISTS": (ServerError, _REPORT),
    "PERMISSION_DENIED": (ServerRefusedError, "the server restricts this call; ask who runs it"),
    "RESOURCE_EXHAUSTED": (ServerOverloadedError, _LATER),
    "FAILED_PRECONDITION": (ServerError, _REPORT),
    "ABORTED": (ServerError, "try again"),
    "OUT_OF_RANGE": (RequestError, _MISFIT),
    "UNIMPLEMENTED": (ServerError, "this is no Triton server, or not its gRPC port; check the address"),
    "INTERNAL": (ServerError, _REPORT),
    "UNAVAILABLE": (ServerUnavailableError, _START),
    "DATA_LOSS": (ServerError, _REPORT),
    "UNAUTHENTICATED": (ServerRefusedError, "the server, or a proxy before it, wants credentials; ask who runs it"),
}
"""Name of the gRPC status -> the error, and what to do."""

_TOO_LARGE = "send fewer requests at a time"
_CERTIFICATE = (
    "see that the tls options name the authority that signed the server's certificate, that this is for the host name "
    "in the address, that none has expired, and, if the server wants one, that they hold a certificate of this client"
)
_WANTS_TLS = "it closed the connection at once: does it want encryption? Then give the client tls options"

# gRPC and Triton use one status for these too; only their words tell them from what the status says.
_UNAVAILABLE_BECAUSE = (
    ("maximum queue size", ServerOverloadedError, _LATER),
    ("timeout expired", ServerTimeoutError, "raise timeout_s, or send fewer requests at a time"),
    ("unknown model", ModelUnavailableError, STATUS_ERRORS["NOT_FOUND"][1]),
    ("not at ready state", ModelUnavailableError, STATUS_ERRORS["NOT_FOUND"][1]),
    ("explicit model load / unload", ServerRefusedError, _EXPLICIT),
    ("is not ready", ModelUnavailableError, STATUS_ERRORS["NOT_FOUND"][1]),
    ("certificate", CertificateError, _CERTIFICATE),
    ("ssl handshake", CertificateError, _CERTIFICATE),
    ("ssl_error", CertificateError, _CERTIFICATE),
    ("verification check failed", CertificateError, _CERTIFICATE),
)
# What a client sees that sent no encryption, or not the certificate, which the server wants: no more than this.
_CLOSED_AT_ONCE = re.compile(r"failed to connect.*(socket closed|connection reset)", re.DOTALL)
_BECAUSE: dict[str, tuple[tuple[str, type[ServerError], str], ...]] = {
    "UNAVAILABLE": _UNAVAILABLE_BECAUSE,
    "RESOURCE_EXHAUSTED": (("larger than max", RequestTooLargeError, _TOO_LARGE),),
}


def server_error(
    status: str | None, text: str, *, url: str, what: str, encrypted: bool = False
) -> ServerError | RequestError:
    """The error for a failed call.

    Args:
        status: as the client library writes it, ``StatusCode.UNAVAILABLE``; None if the call never left.
        text: the server's, or the client library's, own words.
        url: of the server.
        what: was called.
        encrypted: whether the connection was to be.
    """
    name = (status or "").rpartition(".")[2]
    kind, advice = STATUS_ERRORS.get(name, (ServerError, _REPORT))
    reasons = [(found, hint) for words, found, hint in _BECAUSE.get(name, ()) if words in text.lower()]
    if reasons:
        kind, advice = reasons[0]
    elif name == "UNAVAILABLE" and _CLOSED_AT_ONCE.search(text.lower()):
        kind, advice = (CertificateError, _CERTIFICATE) if encrypted else (kind, _WANTS_TLS)
    return kind(f"{what} at {url}: {name or 'no status'}: {text}; {advice}")
