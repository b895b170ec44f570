"""Recall over a backend that blocks: the algorithm of ``recgpt.recall.core``, its questions answered here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from recgpt.asking import Ask, drive
from recgpt.backends.asks import Recall, Search, ask_backend
from recgpt.backends.base import Backend, RecallBackend
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.core import RecallCore
from recgpt.recall.index import ItemIndex
from recgpt.recall.layout import Layout
from recgpt.recall.shares import Shares
from recgpt.turns import outside
from recgpt.types import Candidates, ItemId, RecallRequest, UserId, checked_request


class Recaller(RecallCore):
    """Recalls items for users, whichever backend computes their interests.

    Safe to call from several threads. Use as a context manager, or call ``close``.

    Args:
        backend: runs the model.
        index: finds items for interests; of the same export as the model.
        catalogue: ids and popularity; of the same export as the model.
        prompt_tuned: whether the model went through stage 2; decides the default quotas.
        layout: who looks through the catalogue.
        in_graph: recalls in one graph where the layout says so; None where nothing can.
        shares: shares many requests out to threads; None answers them all in the calling one.

    Raises:
        BundleMismatchError: backend, index and catalogue are of different sizes.
    """

    def __init__(
        self,
        backend: Backend,
        index: ItemIndex,
        catalogue: Catalogue,
        *,
        prompt_tuned: bool,
        layout: Layout = Layout.FUSED,
        in_graph: RecallBackend | None = None,
        shares: Shares | None = None,
    ) -> None:
        super().__init__(
            backend,
            index,
            catalogue,
            prompt_tuned=prompt_tuned,
            layout=layout,
            recalls=in_graph.recalls if in_graph is not None else {},
            scans=in_graph.scans if in_graph is not None else {},
        )
        self._backend = backend
        self._in_graph = in_graph
        self._shares = shares

    @property
    def backend(self) -> Backend:
        """Runs the model."""
        return self._backend

    def recall(
        self,
        history: Sequence[ItemId],
        *,
        user_id: UserId | None = None,
        segments: Sequence[int] | None = None,
        k: int = 10,
        quotas: Sequence[int] | None = None,
        merge: str = "quotas",
        filter_seen: bool = True,
        blocked: Collection[ItemId] = (),
        allowed: Collection[ItemId] | None = None,
    ) -> Candidates:
        """Recalls k items for one user; arguments and errors as in RecallRequest and ``recall_many``."""
        request = RecallRequest(
            history=history,
            user_id=user_id,
            segments=segments,
            k=k,
            quotas=quotas,
            merge=merge,
            filter_seen=filter_seen,
            blocked=blocked,
            allowed=allowed,
        )
        return self.recall_many([request])[0]

    def recall_many(self, requests: Iterable[RecallRequest]) -> list[Candidates]:
        """Recalls items for several users in as few calls of model and index as their numbers of interests allow.

        Args:
            requests: any mix of k, quotas, merges and history lengths.

        Returns:
            One answer a request, in their order.

        Raises:
            ShortfallError: the catalogue cannot give a request's k items.
            QuotaError: more interests than the context window has room for.
            ServerError: the backend is a server and did not answer.
        """
        if self._shares is None:
            return drive(self.steps(requests), self._answer_to)
        return self._shares.answer(
            list(requests),
            lambda share: drive(self.steps(share), self._answer_to),
            weight=lambda request: len(checked_request(request).history),
        )

    def close(self) -> None:
        """Lets go of the backend; calling it twice is harmless."""
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _answer_to(self, ask: Ask[Any]) -> Any:
        if isinstance(ask, Search):
            return outside(partial(self.index.search, excluded=ask.excluded), ask.queries, ask.k, ask.among)
        if isinstance(ask, Recall) and self._in_graph is not None:
            return self._in_graph.recall(ask.tokens, ask.quotas)
        return ask_backend(self.backend, ask)
