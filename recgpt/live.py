"""Recall from the current bundle of a store: a new one is taken over between two calls, never within one.

Each call runs to its end on the bundle it began with, model and index and ids alike; the former bundle's model is
closed when the last call on it has ended. Knows nothing of what runs the model.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from recgpt.backends.base import Backend
from recgpt.bundle import Bundle
from recgpt.errors import BundleError, ConfigError, RecGPTError
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.index import ItemIndex
from recgpt.recall.recaller import Recaller
from recgpt.types import Candidates, RecallRequest

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Opened:
    """One bundle, opened; replaced as a whole."""

    bundle: Bundle
    recaller: Recaller


class LiveRecaller(Recaller):
    """Recalls from a bundle, or from the current one of a store, and changes over when told or by itself.

    Safe to call from several threads, ``reload`` too; a call takes no lock.

    Args:
        bundle: folder of a bundle or of a store.
        open_bundle: makes a recaller of one bundle.
        follow_s: how often to look for a newer bundle in the background, in seconds; None leaves it to ``reload``.

    Raises:
        BundleError: as ``open_bundle``, or there is no bundle.
        ConfigError: ``follow_s`` is not positive.
    """

    def __init__(
        self, bundle: str | Path, open_bundle: Callable[[Bundle], Recaller], *, follow_s: float | None = None
    ) -> None:
        # Not Recaller's: what a Recaller holds is here that of the current bundle.
        check_follow(follow_s)
        self._path = Path(bundle)
        self._open_bundle = open_bundle
        self._reloading = threading.Lock()
        self._closed = threading.Event()
        self._current = self._opened(Bundle.open(self._path))
        if follow_s is not None:
            threading.Thread(target=self._follow, args=(follow_s,), name="recgpt-follow", daemon=True).start()

    @property
    def bundle(self) -> Bundle:
        """What calls that begin now are answered from."""
        return self._current.bundle

    @property
    def backend(self) -> Backend:
        """Of the current bundle."""
        return self._current.recaller.backend

    @property
    def index(self) -> ItemIndex:
        """Of the current bundle."""
        return self._current.recaller.index

    @property
    def catalogue(self) -> Catalogue:
        """Of the current bundle."""
        return self._current.recaller.catalogue

    @property
    def prompt_tuned(self) -> bool:
        """Of the current bundle."""
        return self._current.recaller.prompt_tuned

    def recall_many(self, requests: Iterable[RecallRequest]) -> list[Candidates]:
        """As ``Recaller.recall_many``, all requests from the bundle that is current when it is called."""
        return self._current.recaller.recall_many(requests)

    def reload(self) -> bool:
        """Takes over what is current in the store, if that changed; on an error the bundle stays that it has.

        Returns:
            Whether there was something new.

        Raises:
            BundleError: the new bundle is missing or damaged, or its parts do not belong together; or this was closed.
            ServerError: a server does not serve the new bundle's model.
        """
        with self._reloading:
            if self._closed.is_set():
                raise BundleError(f"the recaller of {self._path} was closed; open a new one")
            now, before = Bundle.open(self._path), self._current.bundle
            if now.state == before.state:
                return False
            self._current = self._opened(now)
            return True

    def close(self) -> None:
        """Lets go of the model and stops following; calling it twice is harmless."""
        self._closed.set()
        with self._reloading:  # what is being opened shall be closed too
            self._current.recaller.close()

    def _opened(self, bundle: Bundle) -> _Opened:
        recaller = self._open_bundle(bundle)
        # A call holds the recaller while it runs. When the last call ends and another bundle is current, nobody does.
        weakref.finalize(recaller, recaller.backend.close).atexit = False
        return _Opened(bundle, recaller)

    def _follow(self, every_s: float) -> None:
        while not self._closed.wait(every_s):
            try:
                self.reload()
            except (RecGPTError, OSError) as error:
                if not self._closed.is_set():
                    version = self.bundle.manifest.version
                    _log.warning("%s: recall goes on with version %s: %s", self._path, version, error)


def check_follow(follow_s: float | None) -> None:
    """ConfigError unless it is None or a time."""
    if follow_s is not None and not follow_s > 0:
        raise ConfigError(f"follow_s = {follow_s}: expected seconds above 0, or None")
