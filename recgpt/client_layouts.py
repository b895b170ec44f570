"""A bundle whose models servers run: ids here, and the calls that ask the servers, in each way to share recall out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from recgpt.asking import Steps, lowered
from recgpt.backends.triton_model import TritonModel
from recgpt.bundle import Bundle
from recgpt.bundle_check import fingerprint_check
from recgpt.errors import ConfigError
from recgpt.one_hop.check import recalled_check
from recgpt.one_hop.engine_codec import MODEL, EngineCodec
from recgpt.one_hop.graph_codec import GraphCodec
from recgpt.one_hop.ladder import Ladder
from recgpt.one_hop.plan import Codec
from recgpt.one_hop.remote import recall_steps
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.core import RecallCore, SeveralSteps
from recgpt.recall.index import ItemIndex
from recgpt.recall_by import RecallBy
from recgpt.signature import recall_spec
from recgpt.types import Candidates, RecallRequest, checked_request


class ServedBundle(ABC):
    """What a client asks of servers for one bundle.

    Args:
        bundle: to recall from.

    Attributes:
        bundle: as given.
        catalogue: its ids and popularity.
        prompt_tuned: whether its model went through stage 2.
        model: its graphs, as the servers have them.

    Raises:
        BundleError: the bundle is damaged.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.catalogue = bundle.catalogue()
        self.prompt_tuned = bundle.manifest.training.is_prompt_tuned
        self.model = served_model(bundle)

    @property
    @abstractmethod
    def index(self) -> ItemIndex:
        """Finds items for interests; ConfigError where servers do that."""

    @abstractmethod
    def check(self, url: str) -> Steps[None]:
        """The calls by which a server is known to serve what is needed of this bundle.

        Raises:
            ServerError: it does not serve it, or is not ready.
            BundleMismatchError: it answers the bundle's test request otherwise than the exported model did.
        """

    @abstractmethod
    def steps(self, requests: Iterable[RecallRequest], *, degrade: bool) -> Steps[list[Candidates]]:
        """A recall as calls to a server, ``Search`` where it is searched here, and ``TakeReserve``."""


def open_served(bundle: Bundle, recall_by: RecallBy, *, num_threads: int | None) -> ServedBundle:
    """Reads what is needed here of a bundle.

    Args:
        bundle: to recall from.
        recall_by: who turns interests into items.
        num_threads: of one search with many queries, where it is searched here.

    Raises:
        BundleError: the bundle is damaged, or cannot be recalled from in this way.
    """
    if recall_by is RecallBy.CLIENT:
        return _IndexHere(bundle, num_threads=num_threads)
    return _OneHop(bundle, recall_by)


class _IndexHere(ServedBundle):
    """Interests come from the servers, the index is here."""

    def __init__(self, bundle: Bundle, *, num_threads: int | None) -> None:
        super().__init__(bundle)
        index = bundle.index(num_threads=num_threads)
        self._core = RecallCore(self.model, index, self.catalogue, prompt_tuned=self.prompt_tuned)

    @property
    def index(self) -> ItemIndex:
        return self._core.index

    def check(self, url: str) -> Steps[None]:
        return _check(self.model, self.catalogue, self.bundle, url)

    def steps(self, requests: Iterable[RecallRequest], *, degrade: bool) -> Steps[list[Candidates]]:
        return lowered(self._core.steps(requests, degrade=degrade), self.model.calls)


@dataclass(frozen=True, kw_only=True)
class _Form:
    """One form of one hop.

    Attributes:
        codec: what is said to the models and read from them.
        names: of the models.
        version: of the models.
        has_single: whether one interest can be asked for.
        has_filters: whether a request can say which items are allowed.
    """

    codec: Codec
    names: Sequence[str]
    version: int
    has_single: bool
    has_filters: bool

    @classmethod
    def graphs(cls, bundle: Bundle, catalogue: Catalogue) -> _Form:
        """By ``recall_J``."""
        manifest = bundle.manifest
        return cls(
            codec=GraphCodec.of(bundle, catalogue),
            names=[recall_spec(number).name for number in manifest.recalls],
            version=manifest.model_version,
            has_single=1 in manifest.recalls,
            has_filters=False,
        )

    @classmethod
    def engine(cls, bundle: Bundle, catalogue: Catalogue) -> _Form:
        """By ``recall_engine``, whose version is the bundle's, also where the graphs are of an earlier one."""
        return cls(
            codec=EngineCodec.of(catalogue),
            names=[MODEL],
            version=bundle.manifest.version,
            has_single=True,
            has_filters=True,
        )


class _OneHop(ServedBundle):
    """Items come from the servers; here is no index, and Faiss is not needed."""

    def __init__(self, bundle: Bundle, recall_by: RecallBy) -> None:
        super().__init__(bundle)
        manifest, make = bundle.manifest, _Form.graphs if recall_by is RecallBy.GRAPH else _Form.engine
        self._recall_by = recall_by
        self._form = make(bundle, self.catalogue)
        self._asked = TritonModel(manifest.model, fused=(), version=str(self._form.version))
        self._several_steps = SeveralSteps(prompt_tuned=self.prompt_tuned)
        self._ladder = Ladder(
            self.catalogue,
            prompt_tuned=self.prompt_tuned,
            window=manifest.model.max_length,
            has_single=self._form.has_single,
        )

    @property
    def index(self) -> ItemIndex:
        raise ConfigError(
            f"recall_by = {str(self._recall_by)!r}: this client has no index; open one with recall_by = 'client'"
        )

    def check(self, url: str) -> Steps[None]:
        form, who = self._form, f"the server at {url}"
        yield from self._asked.check_served(form.names, url)
        yield from recalled_check(
            form.codec, self._asked.run, self.bundle, self.catalogue, who=who, has_filters=form.has_filters
        )

    def steps(self, requests: Iterable[RecallRequest], *, degrade: bool) -> Steps[list[Candidates]]:
        listed = [checked_request(request) for request in requests]
        # The level is that of whoever called the client.
        self._several_steps.asked((len(request.quotas or ()) for request in listed), stacklevel=4)
        ladder = self._ladder if degrade else None
        return recall_steps(self._form.codec, self._asked.run, listed, ladder=ladder)


def served_model(bundle: Bundle) -> TritonModel:
    """A bundle's model as servers have it, pinned to the bundle's version of it."""
    manifest = bundle.manifest
    return TritonModel(manifest.model, fused=manifest.num_interests, version=str(manifest.model_version))


def served_check(bundle: Bundle, url: str, *, recall_by: Collection[RecallBy]) -> Steps[None]:
    """The calls by which a server is known to serve a bundle to clients of several kinds, without opening its index.

    Args:
        bundle: that it should serve.
        url: of the server, for messages.
        recall_by: what clients may ask of it.

    Raises:
        ServerError: it does not serve it, or is not ready.
        BundleMismatchError: it answers the bundle's test request otherwise than the exported model did.
        BundleError: the bundle cannot be recalled from in one of these ways.
    """
    if RecallBy.CLIENT in recall_by:
        yield from _check(served_model(bundle), bundle.catalogue(), bundle, url)
    for kind in (RecallBy.GRAPH, RecallBy.ENGINE):
        if kind in recall_by:
            yield from _OneHop(bundle, kind).check(url)


def _check(model: TritonModel, catalogue: Catalogue, bundle: Bundle, url: str) -> Steps[None]:
    yield from model.check_ready(url)
    yield from lowered(fingerprint_check(model, catalogue, bundle, who=f"the server at {url}"), model.calls)
