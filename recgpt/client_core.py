"""What the blocking and the awaiting client share: options, the way to a checked server, the report of a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from recgpt.asking import Ask, lowered
from recgpt.backends.triton_model import TritonModel
from recgpt.backends.triton_network import TritonNetwork
from recgpt.bundle import Bundle
from recgpt.bundle_check import fingerprint_check
from recgpt.errors import ConfigError, RecGPTError
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.core import RecallCore
from recgpt.remote.attempts import AttemptRecord, Call
from recgpt.remote.network import Network
from recgpt.remote.policy import CallPolicy, TlsOptions
from recgpt.types import Candidates, RecallRequest


@dataclass(frozen=True, kw_only=True, eq=False)
class CallReport:
    """One ``recall_many``, as the hook ``on_call`` is told of it when it has ended.

    Attributes:
        started_ns: when, in nanoseconds since 1970.
        duration_s: all of it.
        num_requests: that were asked for.
        candidates: the answers, with their stage timings and rungs; empty if it failed.
        attempts: each sending to a server, in the order in which they ended.
        error: None if it was answered.
    """

    started_ns: int
    duration_s: float
    num_requests: int
    candidates: Sequence[Candidates]
    attempts: Sequence[AttemptRecord]
    error: RecGPTError | None


OnCall = Callable[[CallReport], None]


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """Of a client; see ``RecallClient``, which documents each.

    Raises:
        ConfigError: a value is out of range, or two exclude each other.
    """

    urls: tuple[str, ...]
    timeout_s: float
    policy: CallPolicy
    degrade: bool
    tls: TlsOptions | None
    num_threads: int | None
    on_call: OnCall | None
    network: Network | None

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s = {self.timeout_s}: expected seconds above 0")
        if self.tls is not None and self.network is not None:
            raise ConfigError("tls and network were given; expected one: a network of your own does without tls")

    def carrier(self) -> Network:
        """What carries the calls."""
        return self.network if self.network is not None else TritonNetwork(tls=self.tls)


def addresses(url: str | Sequence[str]) -> tuple[str, ...]:
    """One address or several, as several."""
    return (url,) if isinstance(url, str) else tuple(url)


class ServedBundle:
    """A bundle whose model servers run: index and ids here, and the calls that ask the model.

    Args:
        bundle: to recall from.
        num_threads: of one search with many queries.

    Attributes:
        bundle: as given.
        model: as the servers have it.
        core: the recall algorithm on this bundle.

    Raises:
        BundleError: the bundle is damaged.
    """

    def __init__(self, bundle: Bundle, *, num_threads: int | None) -> None:
        manifest = bundle.manifest
        index, catalogue = bundle.index(num_threads=num_threads), bundle.catalogue()
        self.bundle = bundle
        self.model = served_model(bundle)
        self.core = RecallCore(self.model, index, catalogue, prompt_tuned=manifest.training.is_prompt_tuned)

    def check(self, url: str) -> Generator[Ask[Any], Any, None]:
        """The calls by which a server is known to serve this bundle's model; errors as of ``served_check``."""
        return _check(self.model, self.core.catalogue, self.bundle, url)

    def steps(self, requests: Iterable[RecallRequest], *, degrade: bool) -> Generator[Ask[Any], Any, list[Candidates]]:
        """A recall as calls to a server, searches, and ``TakeReserve``."""
        return lowered(self.core.steps(requests, degrade=degrade), self.model.calls)


def served_model(bundle: Bundle) -> TritonModel:
    """A bundle's model as servers have it, pinned to the bundle's version of it."""
    manifest = bundle.manifest
    return TritonModel(manifest.model, fused=manifest.num_interests, version=str(manifest.model_version))


def served_check(bundle: Bundle, url: str) -> Generator[Ask[Any], Any, None]:
    """The calls by which a server is known to serve a bundle's model.

    Raises:
        ServerError: it does not serve it, or is not ready.
        BundleMismatchError: it answers the bundle's test request otherwise than the exported model did.
    """
    return _check(served_model(bundle), bundle.catalogue(), bundle, url)


def _check(model: TritonModel, catalogue: Catalogue, bundle: Bundle, url: str) -> Generator[Ask[Any], Any, None]:
    yield from model.check_ready(url)
    yield from lowered(fingerprint_check(model, catalogue, bundle, who=f"the server at {url}"), model.calls)


class Recording:
    """One ``recall_many`` under way: its time, its attempts, and at its end the report.

    Args:
        options: of the client.
        num_requests: that are asked for.
    """

    def __init__(self, options: ClientOptions, num_requests: int) -> None:
        self.call = Call(options.timeout_s, time.monotonic, reserve=options.degrade)
        self._options = options
        self._num_requests = num_requests
        self._started_ns = time.time_ns()

    def ended(self, candidates: Sequence[Candidates] = (), error: RecGPTError | None = None) -> None:
        """Tells the hook, if there is one."""
        if self._options.on_call is None:
            return
        self._options.on_call(
            CallReport(
                started_ns=self._started_ns,
                duration_s=self.call.clock() - self.call.start,
                num_requests=self._num_requests,
                candidates=candidates,
                attempts=tuple(self.call.records),
                error=error,
            )
        )
