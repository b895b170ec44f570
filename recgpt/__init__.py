"""RecGPT: a generative id-based recommender as an exportable model and a fast recall engine.

    from recgpt import Engine, RecallClient

Importing this package loads numpy only; each name below brings its own dependencies when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from recgpt.types import Candidates, ColdStart, Degraded, RecallRequest, Timings

if TYPE_CHECKING:
    from recgpt.async_client import AsyncRecallClient
    from recgpt.bundle import Bundle
    from recgpt.client import RecallClient
    from recgpt.engine import Engine
    from recgpt.remote.policy import CallPolicy, TlsOptions

__all__ = [
    "AsyncRecallClient",
    "Bundle",
    "CallPolicy",
    "Candidates",
    "ColdStart",
    "Degraded",
    "Engine",
    "RecallClient",
    "RecallRequest",
    "Timings",
    "TlsOptions",
]

__version__ = "0.1.0"

_LAZY = {
    "AsyncRecallClient": "recgpt.async_client",
    "Bundle": "recgpt.bundle",
    "CallPolicy": "recgpt.remote.policy",
    "Engine": "recgpt.engine",
    "RecallClient": "recgpt.client",
    "TlsOptions": "recgpt.remote.policy",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'recgpt' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
