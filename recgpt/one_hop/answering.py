"""The server's side of ``recall_engine``: many callers' requests in one recall, each caller's errors its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from recgpt.backends.tensors import NamedArrays
from recgpt.errors import RecGPTError, RequestError
from recgpt.one_hop.engine_codec import EngineCodec
from recgpt.types import Candidates, RecallRequest

Result = NamedArrays | RecGPTError


class Recalls(Protocol):
    """An engine, or what stands for one."""

    def recall_many(self, requests: Sequence[RecallRequest]) -> list[Candidates]:
        """As ``Recaller.recall_many``."""


def answer_all(engine: Recalls, codec: EngineCodec, calls: Sequence[NamedArrays]) -> list[Result]:
    """Answers several callers' inputs, of any shapes, by as few runs of the model as can be.

    Args:
        engine: recalls.
        codec: reads inputs and writes outputs.
        calls: each caller's inputs by name.

    Returns:
        Outputs by name, or the error, one a caller, in their order. A caller whose request is wrong, or asks for more
        than there is, gets an error for all of its rows; the others do not notice.
    """
    read = [_read(codec, feeds) for feeds in calls]
    together = [request for one in read if not isinstance(one, RecGPTError) for request in one]
    try:
        answers = iter(engine.recall_many(together) if together else ())
    except RecGPTError:
        return [one if isinstance(one, RecGPTError) else _alone(engine, codec, one) for one in read]
    return [one if isinstance(one, RecGPTError) else codec.arrays([next(answers) for _ in one]) for one in read]


def _read(codec: EngineCodec, feeds: NamedArrays) -> list[RecallRequest] | RecGPTError:
    try:
        return codec.requests(feeds)
    except RequestError as error:
        return error


def _alone(engine: Recalls, codec: EngineCodec, requests: Sequence[RecallRequest]) -> Result:
    try:
        return codec.arrays(engine.recall_many(requests))
    except RecGPTError as error:
        return error
