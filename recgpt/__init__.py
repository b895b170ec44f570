"""RecGPT: a generative id-based recommender as an exportable model and a fast recall engine.

    from recgpt import Engine, RecallClient

Importing this package loads numpy only; each name below brings its own dependencies when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from recgpt.types import Candidates, ColdStart, RecallRequest, Timings

if TYPE_CHECKING:
    from recgpt.bundle import Bundle
    from recgpt.client import RecallClient
    from recgpt.engine import Engine

__all__ = ["Bundle", "Candidates", "ColdStart", "Engine", "RecallClient", "RecallRequest", "Timings"]

__version__ = "0.1.0"

_LAZY = {"Bundle": "recgpt.bundle", "Engine": "recgpt.engine", "RecallClient": "recgpt.client"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'recgpt' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
