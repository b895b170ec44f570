"""The layouts of ``recgpt.bench.layouts`` by the awaiting client, in one event loop that many requests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from recgpt.asking import Ask, drive_async
from recgpt.async_client import AsyncRecallClient
from recgpt.backends.triton_model import TritonModel
from recgpt.backends.triton_network import TritonNetwork
from recgpt.bench.contenders import TIMEOUT_S
from recgpt.bench.layouts import CLIENT_INDEX, EMPTY_PYTHON, ENGINE, GRAPH, empty_call
from recgpt.bench.open_loop import AsyncRecall
from recgpt.bundle import Bundle
from recgpt.recall_by import RecallBy
from recgpt.types import Candidates, RecallRequest

_BY = {CLIENT_INDEX: RecallBy.CLIENT, GRAPH: RecallBy.GRAPH, ENGINE: RecallBy.ENGINE}


@asynccontextmanager
async def open_async_layouts(bundle: Bundle, url: str, *, num_threads: int) -> AsyncIterator[dict[str, AsyncRecall]]:
    """Connects the three layouts, and the model that does nothing, to a server; the way of each by its name.

    Args:
        bundle: that is served.
        url: of a server that ``serve_layouts`` started.
        num_threads: of Faiss in this process.
    """
    layouts: dict[str, AsyncRecall] = {}
    async with AsyncExitStack() as stack:
        for name, recall_by in _BY.items():
            # Faiss is searched in the client of one layout only, and the others refuse to be told of threads.
            threads = num_threads if recall_by is RecallBy.CLIENT else None
            client = AsyncRecallClient(
                url, bundle=bundle.path, recall_by=recall_by, timeout_s=TIMEOUT_S, num_threads=threads
            )
            layouts[name] = (await stack.enter_async_context(client)).recall_many
        connection = TritonNetwork().connect_async(url)
        stack.push_async_callback(connection.close)
        manifest = bundle.manifest
        model = TritonModel(manifest.model, fused=(), version=str(manifest.model_version))

        async def answer(rpc: Ask[Any]) -> Any:
            return await connection.call(rpc, TIMEOUT_S)

        async def empty(requests: Sequence[RecallRequest]) -> list[Candidates]:
            await drive_async(model.run(*empty_call(EMPTY_PYTHON, len(requests))), answer)
            return []

        yield layouts | {EMPTY_PYTHON: empty}
