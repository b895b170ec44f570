"""How calls to servers are made: what a caller may decide."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from recgpt.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class CallPolicy:
    """Retries and hedging, always within the deadline.

    Only what is safe is repeated: calls that found no server, or one that shuts down or refuses for overload. A call is
    never repeated because it took long; hedging is for that.

    Attributes:
        max_attempts: sendings of one call to a server, the first and a hedge included; 1 = never again.
        backoff_s: the wait before the n-th retry is random, up to ``backoff_s * 2 ** (n - 1)`` (full jitter). A server
            that was not tried yet is tried at once.
        max_backoff_s: and never longer than this.
        retry_ratio: retries and hedges allowed per call in the long run, so that they cannot multiply an overload; ten
            are allowed to begin with.
        hedge_after_s: send the same to a second server if the first has not answered by then, and take the first
            answer; choose about the 95th percentile of what calls take. None = never. Needs several servers.

    Raises:
        ConfigError: a value is out of range.
    """

    max_attempts: int = 3
    backoff_s: float = 0.025
    max_backoff_s: float = 1.0
    retry_ratio: float = 0.1
    hedge_after_s: float | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ConfigError(f"max_attempts = {self.max_attempts}: expected at least 1, the first attempt")
        if not 0 <= self.backoff_s <= self.max_backoff_s:
            raise ConfigError(
                f"backoff_s = {self.backoff_s}, max_backoff_s = {self.max_backoff_s}: expected seconds, "
                "0 <= backoff_s <= max_backoff_s"
            )
        if not 0 <= self.retry_ratio <= 1:
            raise ConfigError(f"retry_ratio = {self.retry_ratio}: expected 0 to 1 retries a call")
        if self.hedge_after_s is not None and not self.hedge_after_s > 0:
            raise ConfigError(f"hedge_after_s = {self.hedge_after_s}: expected seconds above 0, or None")


@dataclass(frozen=True, kw_only=True)
class TlsOptions:
    """Encrypted connections.

    Attributes:
        ca: PEM file of the authorities that the server's certificate must be signed by; None = those of the system.
        certificate: PEM file of this client's certificate (chain), for servers that want one (mutual TLS).
        key: PEM file of its private key.

    Raises:
        ConfigError: a file is missing or no such PEM, or certificate and key do not belong together.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError(f"certificate = {self.certificate}, key = {self.key}: expected both or neither")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca is not None:
                context.load_verify_locations(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self}: not PEM files that fit each other: {error}") from error
