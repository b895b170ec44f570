"""Publishing without a server: what stands after each step, after a kill at any step, and when a step fails."""

from __future__ import annotations

import fcntl
import itertools
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_model import Export, random_requests

from recgpt import RecallClient
from recgpt.bundle import Bundle, write_manifest
from recgpt.bundle_store import BundleStore
from recgpt.engine import Engine
from recgpt.errors import BundleCorruptError, BundleError, ConfigError, OutputError
from recgpt.publishing import Publisher
from recgpt.serving.repository import all_versions, held_versions, write_repository
from recgpt.serving.server import TritonServer


def quiet(text: str) -> None:
    """Progress that nobody reads."""


def version_of(bundle: Path) -> int:
    return Bundle.open(bundle).manifest.version


def items_of(bundle: Path) -> list[tuple[object, ...]]:
    with Engine.load(bundle, num_threads=1) as engine:
        return [answer.item_ids for answer in engine.recall_many(random_requests(10, seed=3))]


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "bundles", model_repository=tmp_path / "models", say=quiet)


def renumbered(source: Path, target: Path, version: int) -> Path:
    bundle = Bundle.open(source)
    bundle.copy_to(target)
    write_manifest(target, replace(bundle.manifest, version=version))
    return target


def test_a_published_bundle_is_what_a_store_stands_for(
    export: Export, other_bundle: Path, publisher: Publisher, tmp_path: Path
) -> None:
    store = tmp_path / "bundles"
    for bundle in (export.bundle, other_bundle):
        assert publisher.publish(bundle) == version_of(bundle) == version_of(store)
        assert items_of(store) == items_of(bundle)
    assert items_of(export.bundle) != items_of(other_bundle)
    first, second = version_of(export.bundle), version_of(other_bundle)
    assert publisher.store.versions() == [first, second]
    both = [first, second]
    expected = dict.fromkeys(("prefill", "decode", "interests_2", "recall_2", "recall_engine"), both)
    expected |= {name: [first] for name in ("interests_1", "interests_6", "recall_1")}
    assert all_versions(tmp_path / "models") == expected
    assert held_versions(tmp_path / "models") == {first, second}


def test_one_step_back_and_no_further(export: Export, other_bundle: Path, publisher: Publisher, tmp_path: Path) -> None:
    first, second = publisher.publish(export.bundle), publisher.publish(other_bundle)
    assert publisher.roll_back() == first == version_of(tmp_path / "bundles")
    with pytest.raises(BundleError, match=f"no version before {first}"):
        publisher.roll_back()
    # What was rolled back from is no way back later.
    third = publisher.publish(renumbered(other_bundle, tmp_path / "third", second + 1))
    assert publisher.roll_back() == first
    assert publisher.store.versions() == [first, second, third]


def test_publishing_twice_changes_nothing(export: Export, publisher: Publisher) -> None:
    publisher.publish(export.bundle)
    state = publisher.store.state()
    publisher.publish(export.bundle)
    assert publisher.store.state() == state


def test_another_bundle_of_the_same_version_is_refused(
    export: Export, other_bundle: Path, publisher: Publisher, tmp_path: Path
) -> None:
    version = publisher.publish(export.bundle)
    same = renumbered(other_bundle, tmp_path / "same", version)
    with pytest.raises(BundleError, match="another bundle of the same version"):
        publisher.publish(same)
    assert items_of(tmp_path / "bundles") == items_of(export.bundle)


def test_old_versions_go_by_count_but_not_within_the_grace(other_bundle: Path, export: Export, tmp_path: Path) -> None:
    models = tmp_path / "models"

    def publisher(grace_s: float) -> Publisher:
        return Publisher(tmp_path / "bundles", model_repository=models, keep=2, grace_s=grace_s, say=quiet)

    first, second = publisher(3600).publish(export.bundle), publisher(3600).publish(other_bundle)
    third = publisher(3600).publish(renumbered(other_bundle, tmp_path / "third", second + 1))
    assert BundleStore(tmp_path / "bundles").versions() == [first, second, third]
    fourth = publisher(0).publish(renumbered(other_bundle, tmp_path / "fourth", second + 2))
    assert BundleStore(tmp_path / "bundles").versions() == [third, fourth] == sorted(held_versions(models))
    # With the last version that had it, the graph of six interests went too.
    left = ("prefill", "decode", "interests_2", "recall_2", "recall_engine")
    assert all_versions(models) == {name: [third, fourth] for name in left}
    assert publisher(0).roll_back() == third


def test_an_export_into_the_same_repository_leaves_the_published_version(
    export: Export, other_bundle: Path, publisher: Publisher, tmp_path: Path
) -> None:
    first = publisher.publish(export.bundle)
    other = Bundle.open(other_bundle)
    write_repository(tmp_path / "models", other.graphs(), other.manifest.version)
    assert all_versions(tmp_path / "models")["prefill"] == [first, other.manifest.version]


@pytest.mark.parametrize("name", ["prefill.onnx", "item_index.faiss", "ids.json", "examples.json"])
@pytest.mark.parametrize("cut", [False, True])
def test_an_altered_or_truncated_file_is_refused_and_the_old_version_stays(
    export: Export, other_bundle: Path, publisher: Publisher, tmp_path: Path, name: str, cut: bool
) -> None:
    first = publisher.publish(export.bundle)
    damaged = tmp_path / "damaged"
    Bundle.open(other_bundle).copy_to(damaged)
    content = (damaged / name).read_bytes()
    (damaged / name).write_bytes(content[:-1] if cut else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleCorruptError, match=name):
        publisher.publish(damaged)
    assert (version_of(tmp_path / "bundles"), publisher.store.versions()) == (first, [first])
    assert all_versions(tmp_path / "models")["prefill"] == [first]


def test_a_full_disk_is_an_output_error_and_the_old_version_stays(
    export: Export, other_bundle: Path, publisher: Publisher, tmp_path: Path
) -> None:
    first = publisher.publish(export.bundle)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a write past it fails as on a full disk
    try:
        with pytest.raises(OutputError, match="cannot write"):
            publisher.publish(other_bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (version_of(tmp_path / "bundles"), publisher.store.versions()) == (first, [first])
    assert sorted(path.name for path in (tmp_path / "bundles").iterdir()) == [".lock", str(first), "store.json"]
    publisher.publish(other_bundle)


def test_two_at_once_are_refused(export: Export, publisher: Publisher, tmp_path: Path) -> None:
    publisher.publish(export.bundle)
    with (tmp_path / "bundles" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="another process"):
            publisher.publish(export.bundle)


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no version"):
        Publisher(tmp_path / "bundles", say=quiet).roll_back()
    with pytest.raises(ConfigError, match="model repository"):
        Publisher(tmp_path / "bundles", urls=["localhost:8001"])


KILL = """
import sys
from pathlib import Path
from kill_points import each_kill_point, in_a_child
from recgpt.bundle import Bundle
from recgpt.publishing import Publisher
from recgpt.serving.repository import all_versions

folder, first, second = map(Path, sys.argv[1:])

def publish(bundle):
    Publisher(folder / "bundles", model_repository=folder / "models", say=lambda text: None).publish(bundle)

in_a_child(lambda: publish(first))
# Each try goes on where the one before was killed, as a person would type the command again.
for number in each_kill_point(lambda: publish(second)):
    bundle = Bundle.open(folder / "bundles")
    bundle.check_files()
    version = bundle.manifest.model_version
    served = [name for name, versions in all_versions(folder / "models").items() if version in versions]
    print(version, *sorted(served), flush=True)
"""


TESTS = Path(__file__).parents[1]


def lines_of(*command: object) -> list[str]:
    """What a Python script prints, in a process of its own that has no threads."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_publishing_killed_at_any_step_leaves_a_whole_version_with_all_its_graphs(
    export: Export, other_bundle: Path, tmp_path: Path
) -> None:
    found = lines_of("-c", KILL, tmp_path, export.bundle, other_bundle)
    recalls = "recall_1 recall_2 recall_engine"
    old = f"{version_of(export.bundle)} decode interests_1 interests_2 interests_6 prefill {recalls}"
    new = f"{version_of(other_bundle)} decode interests_2 prefill recall_2 recall_engine"
    assert set(found) == {old, new}
    assert found == sorted(found)  # once new, always new
    assert len(found) > 20
    # What all these kills left behind keeps no server from starting.
    with TritonServer(tmp_path / "models", log=tmp_path / "log", ready_timeout_s=120.0, explicit=True) as server:
        RecallClient(server.url, bundle=tmp_path / "bundles", timeout_s=60.0).close()


# What stands one after the other, the later a command is killed: current bundle, deleted items, versions in the store.
KILLED = {
    "delete-items": ["first 1 1", "first 2 1"],
    "rollback": ["second 1 2", "first 1 2"],
    "add-items": ["first 1 1", "first 1 2", "added 1 2", "added 1 1"],
    "publish": ["first 1 1", "first 1 2", "second 1 2", "second 1 1"],
}
MANY_CHANGES = ("add-items", "publish")  # minutes


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "command", ["delete-items", "rollback", *(pytest.param(name, marks=pytest.mark.slow) for name in MANY_CHANGES)]
)
def test_commands_killed_before_any_change_leave_a_whole_version_and_no_deleted_item(
    command: str, export: Export, other_bundle: Path, tmp_path: Path
) -> None:
    found = lines_of(TESTS / "killed_commands.py", command, tmp_path, export.bundle, other_bundle)
    assert [line for line, _ in itertools.groupby(found)] == KILLED[command]
    assert len(found) > 10
