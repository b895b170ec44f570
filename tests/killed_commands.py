"""Runs a command of ``recgpt bundle`` and kills it before each of its changes to files, each time from the same start.

    python killed_commands.py COMMAND FOLDER FIRST SECOND

Before the command, the bundle FIRST is published and an item deleted; before a rollback, SECOND is published too. For
each kill it prints which bundle is current, how many items are deleted and how many versions the store has. It ends
with an error where something is there in part only, or a deleted item is recalled.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from kill_points import each_kill_point, in_a_child

from recgpt.bundle import Bundle
from recgpt.bundle_store import BundleStore
from recgpt.engine import Engine
from recgpt.errors import ShortfallError
from recgpt.one_hop.engine_codec import MODEL
from recgpt.publishing import Publisher
from recgpt.serving.repository import CONFIG
from recgpt.store_state import StoreState

DELETED = ("i7", "i8")
"""The first is deleted before the command."""


def quiet(text: str) -> None:
    """Progress that nobody reads."""


def publisher(folder: Path, *, keep: int = 1) -> Publisher:
    return Publisher(folder / "bundles", model_repository=folder / "models", keep=keep, grace_s=0.0, say=quiet)


COMMANDS: dict[str, Callable[[Path, Path], object]] = {
    "publish": lambda folder, second: publisher(folder).publish(second),
    "rollback": lambda folder, second: publisher(folder).roll_back(),
    "add-items": lambda folder, second: publisher(folder).add_items(["n1"], np.ones((1, 16), dtype=np.float32)),
    "delete-items": lambda folder, second: publisher(folder).delete_items(DELETED[1:]),
}


def prepare(command: str, folder: Path, first: Path, second: Path) -> None:
    publisher(folder, keep=3).publish(first)
    publisher(folder, keep=3).delete_items(DELETED[:1])
    if command == "rollback":
        publisher(folder, keep=3).publish(second)


def standing(folder: Path) -> tuple[int, int, int]:
    """Version, number of deleted items and of versions; AssertionError or BundleError if a reader or server fails."""
    store = BundleStore(folder / "bundles")
    for version in store.versions():
        store.bundle(version).check_files()
    bundle = Bundle.open(store.path)
    assert DELETED[0] in bundle.deleted
    served, manifest = check_repository(folder / "models"), bundle.manifest
    graphs = [*bundle.graphs(), *(bundle.recall_graphs() if manifest.recalls_in_graphs else ())]
    assert all(manifest.model_version in served[name] for name in graphs)
    assert manifest.version in served[MODEL]
    return manifest.version, len(bundle.deleted), len(store.versions())


def check_repository(models: Path) -> dict[str, list[int]]:
    """Triton takes each folder for a model, whatever its name, and starts if each has settings and whole versions."""
    found = {}
    for model in (path for path in models.iterdir() if path.is_dir()):
        versions = [path for path in model.iterdir() if path.name.isdecimal()]
        assert versions, model
        assert (model / CONFIG).is_file(), model
        for version in versions:
            if model.name == MODEL:
                Bundle.open(version / "bundle").check_files()
                assert (version / "model.py").is_file(), version
                state = StoreState.read(version)
                assert state is not None, version
                assert DELETED[0] in state.deleted, version
            else:
                assert (version / "model.onnx").is_file(), version
        found[model.name] = [int(version.name) for version in versions]
    return found


def recall(folder: Path) -> None:
    """By an engine: something, and nothing that was deleted."""
    with Engine.load(folder / "bundles", num_threads=1) as engine:
        assert len(engine.recall(["i1"], k=5)) == 5
        for item in engine.bundle.deleted:
            try:
                engine.recall(["i1"], k=1, allowed=[item])
            except ShortfallError:
                continue
            raise AssertionError(f"{item} was deleted, and is recalled")


def main(command: str, folder: Path, first: Path, second: Path) -> None:
    in_a_child(lambda: prepare(command, folder / "start", first, second))
    names = {Bundle.open(first).manifest.version: "first", Bundle.open(second).manifest.version: "second"}
    world, seen = folder / "world", set()

    def run() -> None:
        COMMANDS[command](world, second)

    shutil.copytree(folder / "start", world)
    for _ in each_kill_point(run):
        found = standing(world)
        if found not in seen:
            in_a_child(lambda: recall(world))
            seen.add(found)
        version, num_deleted, num_versions = found
        print(names.get(version, "added"), num_deleted, num_versions, flush=True)
        shutil.rmtree(world)
        shutil.copytree(folder / "start", world)


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
