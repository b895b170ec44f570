"""A store of bundles: immutable versions side by side, and one small file that says which of them is served.

    bundles/
      store.json             current version, the versions before it, deleted items
      20261121080000/        a bundle; never changed once it stands
      20261121090000/

Whatever is interrupted, at any point, ``store.json`` is the old one or the new one and the version it names is whole:
a version is written under a hidden name and then renamed, and only then named. Knows no server and no model repository.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from recgpt.bundle import Bundle, Manifest
from recgpt.errors import BundleError, OutputError
from recgpt.files import atomic_path, remove_folder
from recgpt.store_state import StoreState
from recgpt.types import ItemId

_LOCK = ".lock"


@dataclass(frozen=True)
class BundleStore:
    """The bundles in one folder. Readers need no lock; whoever changes something holds ``locked``.

    Attributes:
        path: the folder; made by the first change.
    """

    path: Path

    def state(self) -> StoreState:
        """What is current; an empty state where nothing was published yet; BundleError if it cannot be read."""
        return StoreState.read(self.path) or StoreState()

    def versions(self) -> list[int]:
        """All versions that stand, ascending."""
        found = self.path.iterdir() if self.path.is_dir() else ()
        return sorted(int(path.name) for path in found if path.is_dir() and path.name.isdecimal())

    def folder(self, version: int) -> Path:
        """Where a version stands, or would."""
        return self.path / str(version)

    def bundle(self, version: int) -> Bundle:
        """Opens one version; BundleError if it is not there."""
        return Bundle.open(self.folder(version))

    def manifests(self) -> list[Manifest]:
        """Of all versions that can be opened, by version."""
        found = []
        for version in self.versions():
            with contextlib.suppress(BundleError):
                found.append(self.bundle(version).manifest)
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from changing the store meanwhile; what a killed one left half written is removed.

        Raises:
            OutputError: another process changes the store, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / _LOCK).open("w")
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; choose a writable folder") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(
                    f"another process is changing {self.path}; wait for it to end and try again"
                ) from error
            for leftover in self.path.glob(".*.*"):
                shutil.rmtree(leftover, ignore_errors=True)
            yield

    @contextlib.contextmanager
    def new_version(self, version: int) -> Iterator[Path]:
        """Gives a path to make a bundle at, which becomes the version when the block ends well; it is not yet current.

        Raises:
            BundleError: the version is there already.
            OutputError: the folder cannot be written, or the disk is full.
        """
        if self.folder(version).exists():
            raise BundleError(f"{self.folder(version)} exists, and a version never changes; export again")
        with atomic_path(self.folder(version)) as folder:
            yield folder

    def switch(self, version: int) -> None:
        """Makes a version the current one, in one step."""
        self.state().switched(version, now=int(time.time())).write(self.path)

    def roll_back(self) -> None:
        """Makes the version before the current one, in one step; BundleError if there is none."""
        self.state().rolled_back(now=int(time.time())).write(self.path)

    def delete_items(self, items: Sequence[ItemId]) -> None:
        """Writes down items that no bundle of the store may recall, this one or a later one, in one step."""
        self.state().without(tuple(items)).write(self.path)

    def prune(self, *, keep: int, grace_s: float) -> list[int]:
        """Removes old versions.

        Args:
            keep: how many to keep: the current one, then those before it, then those never or no longer on that way.
            grace_s: a version replaced less than this many seconds ago stays too: someone may still use it.

        Returns:
            The versions removed.
        """
        state = self.state()
        way = [version for version in (state.current, *reversed(state.previous)) if version is not None]
        others = [version for version in reversed(self.versions()) if version not in way]
        now = time.time()
        old = [version for version in (*way, *others)[keep:] if now - state.retired.get(version, 0) >= grace_s]
        if old:
            # Forgotten first, removed after: a rollback never goes to what is half removed.
            state.pruned(frozenset(old)).write(self.path)
            for version in old:
                remove_folder(self.folder(version))
        return sorted(old)
