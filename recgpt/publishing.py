"""Publishing: bundles into a store, their graphs to the servers, and only then the switch.

    check -> copy into the store -> copy the graphs -> servers load, and answer the test request -> switch -> prune

Until the switch, which replaces one file, everything serves the version before; a step that fails is undone, and one
that is interrupted is harmless and repeated by the next publishing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from recgpt.asking import drive
from recgpt.backends.triton_network import TritonNetwork
from recgpt.bundle import Bundle, Manifest, next_version
from recgpt.bundle_check import check_bundle
from recgpt.bundle_items import check_new_items, write_with_items
from recgpt.bundle_store import BundleStore
from recgpt.client_layouts import served_check
from recgpt.errors import BundleError, ConfigError, RecGPTError, ServerError
from recgpt.one_hop.engine_codec import MODEL
from recgpt.recall_by import RecallBy
from recgpt.serving.control import ModelControl
from recgpt.serving.engine_files import EngineFiles, tell_deleted
from recgpt.serving.repository import add_version, all_versions, held_versions, hold_versions, remove_versions
from recgpt.types import Float32Array, ItemId

CHECK_TIMEOUT_S = 60.0


class Publisher:
    """Changes what a store, a model repository and running servers serve, as one.

    Args:
        store: folder of the bundles.
        model_repository: of the servers; None if the bundles are for engines in process only.
        urls: ``host:port`` of each running server, started with ``--model-control-mode=explicit``.
        network: how the servers are reached; None connects in the clear and without a key.
        keep: how many versions to keep, the current one among them; they stay loaded, for clients that change over
            later.
        grace_s: no version goes that was replaced less than this many seconds ago.
        say: told about each step.

    Raises:
        ConfigError: servers without a model repository, or nothing to keep.
    """

    def __init__(
        self,
        store: Path,
        *,
        model_repository: Path | None = None,
        urls: Sequence[str] = (),
        network: TritonNetwork | None = None,
        keep: int = 3,
        grace_s: float = 600.0,
        say: Callable[[str], None] = print,
    ) -> None:
        if urls and model_repository is None:
            raise ConfigError(f"servers {list(urls)}: expected the model repository that they serve as well")
        if keep < 1 or grace_s < 0:
            raise ConfigError(f"keep = {keep}, grace_s = {grace_s}: expected at least 1 version and 0 seconds")
        self.store = BundleStore(Path(store))
        self._repository = model_repository
        self._urls = tuple(urls)
        self._network = network
        self._keep = keep
        self._grace_s = grace_s
        self._say = say

    def publish(self, bundle: Path) -> int:
        """Makes a bundle the current one; publishing it again finishes what was interrupted.

        Args:
            bundle: folder that ``export/to_onnx.py`` wrote.

        Returns:
            Its version.

        Raises:
            BundleError: it is damaged, or not the one that stands under its version.
            OutputError: a folder cannot be written, or the repository holds graphs of other sizes.
            ServerError: a server cannot be reached or cannot serve it; the version before goes on.
        """
        source = Bundle.open(bundle)
        version = source.manifest.version
        with self.store.locked():
            if not self.store.folder(version).exists():
                self._say(f"checking and copying version {version}")
                with self.store.new_version(version) as folder:
                    source.copy_to(folder)
                    check_bundle(Bundle.open(folder))
            elif self.store.bundle(version).manifest != source.manifest:
                raise BundleError(f"{self.store.folder(version)} is another bundle of the same version; export again")
            self._serve(version)
            self.store.switch(version)
            self._say(f"version {version} is current")
            self._prune()
        return version

    def roll_back(self) -> int:
        """Makes the version before the current one, after the same checks; returns it. Errors as of ``publish``."""
        with self.store.locked():
            version = self.store.state().rolled_back(now=0).current
            if version is None:
                raise BundleError(f"{self.store.path} has no version before the current one")
            check_bundle(self.store.bundle(version))
            self._serve(version)
            self.store.roll_back()
            self._say(f"version {version} is current again")
        return version

    def add_items(self, items: Sequence[ItemId], vectors: Float32Array) -> int:
        """Publishes the current bundle with new items behind its own; the servers' models stay as they are.

        Args:
            items: ids that the bundle does not have and that were never deleted.
            vectors: (N, D) float32, in the space of the model's item matrix.

        Returns:
            The new version.

        Raises:
            DataError: items or vectors are not such.
        """
        with self.store.locked():
            current = Bundle.open(self.store.path)
            check_new_items(current, items, vectors)
            version = next_version(max(self.store.versions()))
            with self.store.new_version(version) as folder:
                write_with_items(current, folder, items, vectors, version=version)
                check_bundle(Bundle.open(folder))
            self._serve(version)
            self.store.switch(version)
            self._say(f"version {version} is current, with {len(items)} new item(s)")
            self._prune()
        return version

    def delete_items(self, items: Sequence[ItemId]) -> None:
        """Takes items out of every answer, now and from every later bundle of this store; histories may hold them.

        Raises:
            BundleError: nothing was published yet.
        """
        with self.store.locked():
            Bundle.open(self.store.path)
            self.store.delete_items(items)
            self._tell_deleted()
        self._say(f"{len(items)} item(s) deleted for good")

    def _serve(self, version: int) -> None:
        """Brings a version's graphs to the servers, beside those of the current version."""
        bundle, repository = self.store.bundle(version), self._repository
        if repository is None:
            return
        model_version = bundle.manifest.model_version
        held = held_versions(repository)
        with self._undone_on_failure(repository):
            # An export into the repository may have removed the current version before it was held.
            for each in (*self._current(), bundle):
                _add(repository, each)
                held |= _served_as(each.manifest)
            self._tell_deleted()
            hold_versions(repository, held)
            for url in self._urls:
                self._say(f"loading version {model_version} at {url}")
                with ModelControl(url, network=self._network) as control:
                    control.load(all_versions(repository))
                self._check_served(bundle, repository, url)

    def _check_served(self, bundle: Bundle, repository: Path, url: str) -> None:
        connection = (self._network or TritonNetwork()).connect(url)
        try:
            check = served_check(bundle, url, recall_by=_kinds_served(bundle, repository))
            drive(check, lambda rpc: connection.call(rpc, CHECK_TIMEOUT_S))
        finally:
            connection.close()

    def _tell_deleted(self) -> None:
        state = self.store.state()
        if self._repository is not None:
            tell_deleted(self._repository, state.deleted, state.revision)

    def _current(self) -> list[Bundle]:
        current = self.store.state().current
        try:
            bundles = [] if current is None else [self.store.bundle(current)]
            for bundle in bundles:
                bundle.check_files()
        except BundleError as error:
            self._say(f"the current version {current} is damaged and cannot be kept beside the new one: {error}")
            return []
        return bundles

    @contextlib.contextmanager
    def _undone_on_failure(self, repository: Path) -> Iterator[None]:
        before, held = _numbers(repository), held_versions(repository)
        try:
            yield
        except RecGPTError:
            if _numbers(repository) - before:
                hold_versions(repository, held)
                remove_versions(repository, keep=before)
                self._reload(set(all_versions(repository)), set())
            raise

    def _prune(self) -> None:
        for version in self.store.prune(keep=self._keep, grace_s=self._grace_s):
            self._say(f"version {version} is removed")
        if self._repository is None:
            return
        held = held_versions(self._repository)
        gone = held - {number for manifest in self.store.manifests() for number in _served_as(manifest)}
        if gone:
            models = set(all_versions(self._repository))
            # Removed first, forgotten after: what an interruption left standing goes with the next publishing.
            remove_versions(self._repository, keep=_numbers(self._repository) - gone)
            hold_versions(self._repository, held - gone)
            left = set(all_versions(self._repository))
            self._reload(left, models - left)

    def _reload(self, models: set[str], gone: set[str]) -> None:
        """Lets the servers see what was removed; one that does not answer sees it with the next publishing."""
        for url in self._urls:
            try:
                with ModelControl(url, network=self._network) as control:
                    control.load(sorted(models))
                    control.unload(sorted(gone))
            except ServerError as error:
                self._say(f"{url} did not unload what was removed: {error}")


def _add(repository: Path, bundle: Bundle) -> None:
    add_version(repository, bundle.served_graphs(), bundle.manifest.model_version, engine=EngineFiles.of(bundle))


def _kinds_served(bundle: Bundle, repository: Path) -> list[RecallBy]:
    """What clients can ask of a repository that holds this bundle."""
    manifest, kinds = bundle.manifest, [RecallBy.CLIENT]
    if manifest.recalled and manifest.recalls_in_graphs:
        kinds.append(RecallBy.GRAPH)
    if manifest.recalled and manifest.version in all_versions(repository).get(MODEL, []):
        kinds.append(RecallBy.ENGINE)
    return kinds


def _served_as(manifest: Manifest) -> set[int]:
    """The versions of the models of a bundle: of its graphs, and of its engine."""
    return {manifest.model_version, manifest.version}


def _numbers(repository: Path) -> set[int]:
    return {version for versions in all_versions(repository).values() for version in versions}
