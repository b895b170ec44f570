"""Recall by one request a call, over whatever carries named arrays to a model and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from recgpt.asking import Steps
from recgpt.backends.tensors import NamedArrays
from recgpt.errors import QuotaError, RequestError, ServerError, ShortfallError
from recgpt.one_hop.ladder import Ladder
from recgpt.one_hop.plan import Codec
from recgpt.signature import GraphSpec
from recgpt.types import Candidates, RecallRequest, checked_request

Infer = Callable[[GraphSpec, NamedArrays], NamedArrays]
"""Runs a model on its inputs and gives its outputs, as ``GraphBackend.run`` does; raises our errors."""

InferSteps = Callable[[GraphSpec, NamedArrays], Steps[NamedArrays]]
"""The same as an algorithm that asks, as ``TritonModel.run`` is."""

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
        plan = self._codec.plan([checked_request(request) for request in requests])
        try:
            return plan.finish([self._infer(call.graph, call.feeds) for call in plan.calls])
        except RequestError as error:
            raise typed(error) from error


def recall_steps(
    codec: Codec, infer: InferSteps, requests: Iterable[RecallRequest], *, ladder: Ladder | None = None
) -> Steps[list[Candidates]]:
    """As ``RemoteRecall.recall_many``, for whoever drives such algorithms, blocking or awaiting.

    Args:
        codec: of the form that the server offers.
        infer: asks a model.
        requests: as of ``Recaller.recall_many``.
        ladder: answers the requests of calls that a server fails; None makes its error that of all.
    """
    listed = [checked_request(request) for request in requests]

    def again(fewer: Sequence[RecallRequest]) -> Steps[list[Candidates]]:
        return recall_steps(codec, infer, fewer)

    try:
        plan = codec.plan(listed)
        outputs: list[NamedArrays | None] = []
        instead: dict[int, Candidates] = {}
        for call in plan.calls:
            try:
                outputs.append((yield from infer(call.graph, call.feeds)))
            except ServerError as error:
                if ladder is None:
                    raise
                outputs.append(None)
                less = yield from ladder.answers([listed[place] for place in call.places], error, again)
                instead.update(zip(call.places, less, strict=True))
        return plan.finish(outputs, instead)
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
