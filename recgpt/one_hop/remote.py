"""Recall by one request a call, over whatever carries named arrays to a model and back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable

from recgpt.backends.tensors import NamedArrays
from recgpt.errors import QuotaError, RequestError, ShortfallError
from recgpt.one_hop.plan import Codec
from recgpt.types import Candidates, RecallRequest

Infer = Callable[[str, NamedArrays], NamedArrays]
"""Takes the name of a model and its inputs, gives its outputs; raises our errors."""

AsyncInfer = Callable[[str, NamedArrays], Awaitable[NamedArrays]]

_SHORTFALL = re.compile(r"\[requested=(\d+) available=(\d+)\]")
_QUOTAS = "[quotas]"


class RemoteRecall:
    """The same answers as ``Recaller.recall_many``, by a model that does all of it. As thread-safe as ``infer``.

    Args:
        codec: of the form that the server offers.
        infer: asks a model.
    """

    def __init__(self, codec: Codec, infer: Infer) -> None:
        self._codec = codec
        self._infer = infer

    def recall_many(self, requests: Iterable[RecallRequest]) -> list[Candidates]:
        """One answer a request, in their order; errors as of ``Recaller.recall_many``, and those of ``infer``."""
        plan = self._codec.plan(list(requests))
        try:
            return plan.finish([self._infer(call.model, call.feeds) for call in plan.calls])
        except RequestError as error:
            raise typed(error) from error


class AsyncRemoteRecall:
    """As ``RemoteRecall``; the calls of one ``recall_many`` are under way at once.

    Args:
        codec: of the form that the server offers.
        infer: asks a model.
    """

    def __init__(self, codec: Codec, infer: AsyncInfer) -> None:
        self._codec = codec
        self._infer = infer

    async def recall_many(self, requests: Iterable[RecallRequest]) -> list[Candidates]:
        """As ``RemoteRecall.recall_many``."""
        plan = self._codec.plan(list(requests))
        try:
            return plan.finish(await asyncio.gather(*(self._infer(call.model, call.feeds) for call in plan.calls)))
        except RequestError as error:
            raise typed(error) from error


def marked(error: RequestError) -> str:
    """The message that a server sends, from which ``typed`` makes the same error again."""
    if isinstance(error, ShortfallError):
        return f"{error} [requested={error.requested} available={error.available}]"
    return f"{error} {_QUOTAS}" if isinstance(error, QuotaError) else str(error)


def typed(error: RequestError) -> RequestError:
    """The narrower error that a server's message stands for; the error itself if it is none."""
    found = _SHORTFALL.search(str(error))
    if found is not None and not isinstance(error, ShortfallError):
        return ShortfallError(str(error), requested=int(found.group(1)), available=int(found.group(2)))
    return QuotaError(str(error)) if _QUOTAS in str(error) else error
