"""Tests that need a GPU: ``pytest -m gpu``, or ``make gpu``. Where there is none, each says what it misses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from recgpt.bench.gpu import missing_for


@pytest.fixture
def needs() -> Callable[..., None]:
    """Skips the test, with the reason, unless all of these libraries can use a GPU here."""

    def check(*libraries: str) -> None:
        reasons = [reason for library in libraries if (reason := missing_for(library))]
        if reasons:
            pytest.skip("; ".join(reasons))

    return check
