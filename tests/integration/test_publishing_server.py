"""Publishing to a real Triton server that answers requests all the while: none fails, none is mixed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from tiny_model import Export, bundle_copy, random_requests

from recgpt import RecallClient
from recgpt.bundle import Bundle
from recgpt.engine import Engine
from recgpt.errors import BundleMismatchError, ModelUnavailableError, ServerRefusedError
from recgpt.publishing import Publisher
from recgpt.serving.repository import all_versions, write_repository
from recgpt.serving.server import TritonServer
from recgpt.types import Candidates, RecallRequest

NUM_CALLERS = 3
TIMEOUT_S = 60.0  # a busy machine is not what is tested here


def quiet(text: str) -> None:
    """Progress that nobody reads."""


def requests() -> list[RecallRequest]:
    return [request for request in random_requests(40, seed=21) if len(request.quotas or ()) <= 2]


def answer_of(candidates: list[Candidates]) -> tuple[object, ...]:
    return tuple((one.item_ids, one.generated_ids) for one in candidates)


@pytest.fixture(scope="module")
def answers(export: Export, other_bundle: Path) -> dict[int, tuple[object, ...]]:
    """What each version answers, by an engine of its own."""
    found = {}
    for folder in (export.bundle, other_bundle):
        with Engine.load(folder, num_threads=1) as engine:
            found[engine.bundle.manifest.version] = answer_of(engine.recall_many(requests()))
    return found


class Callers:
    """Threads that recall without a pause, through one client; what they got, and what went wrong."""

    def __init__(self, client: RecallClient) -> None:
        self._client = client
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(NUM_CALLERS)]
        self.answers: list[tuple[object, ...]] = []
        self.errors: list[Exception] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._done.is_set():
            try:
                self.answers.append(answer_of(self._client.recall_many(requests())))
            except Exception as error:  # noqa: BLE001
                self.errors.append(error)


@pytest.fixture(scope="module")
def world(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, TritonServer]]:
    """A folder with a store and a repository in which the first bundle is published, and its server."""
    folder = tmp_path_factory.mktemp("world")
    Publisher(folder / "bundles", model_repository=folder / "models", say=quiet).publish(export.bundle)
    with TritonServer(folder / "models", log=folder / "log", ready_timeout_s=TIMEOUT_S, explicit=True) as server:
        yield folder, server


def publisher_of(
    world: tuple[Path, TritonServer], *, models: str = "models", keep: int = 3, grace_s: float = 0.0
) -> Publisher:
    folder, server = world
    return Publisher(
        folder / "bundles", model_repository=folder / models, urls=[server.url], keep=keep, grace_s=grace_s, say=quiet
    )


def test_a_server_of_another_repository_stops_the_switch(
    world: tuple[Path, TritonServer], export: Export, other_bundle: Path
) -> None:
    with pytest.raises(ModelUnavailableError, match="does not serve prefill"):
        publisher_of(world, models="elsewhere").publish(other_bundle)
    folder, _ = world
    version = Bundle.open(export.bundle).manifest.version
    assert Bundle.open(folder / "bundles").manifest.version == version
    assert all_versions(folder / "elsewhere").get("prefill", []) in ([], [version])


@pytest.mark.parametrize(("later", "recalls"), [(1, (2,)), (2, ())], ids=["recall_2", "recall_engine"])
def test_a_server_that_recalls_other_items_stops_the_switch(
    world: tuple[Path, TritonServer], other_bundle: Path, tmp_path: Path, later: int, recalls: tuple[int, ...]
) -> None:
    manifest = Bundle.open(other_bundle).manifest
    another = bundle_copy(
        other_bundle,
        tmp_path / "bundle",
        version=manifest.version + later,
        recalled={row: score / 2 for row, score in manifest.recalled.items()},
        recalls=recalls,
    )
    folder, _ = world
    before = Bundle.open(folder / "bundles").manifest, all_versions(folder / "models")
    with pytest.raises(BundleMismatchError, match="its scores are off by"):
        publisher_of(world).publish(another)
    assert (Bundle.open(folder / "bundles").manifest, all_versions(folder / "models")) == before


def test_publishing_and_going_back_under_load_fails_and_mixes_nothing(
    world: tuple[Path, TritonServer], export: Export, other_bundle: Path, answers: dict[int, tuple[object, ...]]
) -> None:
    folder, server = world
    first, second = sorted(answers)
    publisher = publisher_of(world)
    with RecallClient(server.url, bundle=folder / "bundles", timeout_s=TIMEOUT_S, follow_s=0.1) as client:
        with Callers(client) as callers:
            publisher.publish(other_bundle)
            client.reload()
            assert client.bundle.manifest.version == second
            # A client that has not changed over yet goes on with the version before.
            with RecallClient(server.url, bundle=export.bundle, timeout_s=TIMEOUT_S) as late:
                assert answer_of(late.recall_many(requests())) == answers[first]
            assert publisher.roll_back() == first
            client.reload()
            assert client.bundle.manifest.version == first
            publisher.publish(other_bundle)
            client.reload()
        assert answer_of(client.recall_many(requests())) == answers[second]
    assert callers.errors == []
    assert set(callers.answers) == set(answers.values())
    assert len(callers.answers) > 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_requests_while_models_come_and_go(
    world: tuple[Path, TritonServer],
    export: Export,
    other_bundle: Path,
    answers: dict[int, tuple[object, ...]],
    tmp_path: Path,
) -> None:
    """One by one, each from the version before or from the one after; new ones are loaded, old ones unloaded."""
    folder, server = world
    asked, found, errors = requests(), [0] * NUM_CALLERS, []
    by_request = [{both[number] for both in answers.values()} for number in range(len(asked))]
    publisher, num_published = publisher_of(world, keep=2, grace_s=2.0), 0
    with RecallClient(server.url, bundle=folder / "bundles", timeout_s=TIMEOUT_S, follow_s=0.05) as client:

        def call(caller: int) -> None:
            while found[caller] * NUM_CALLERS < 10_000 and not errors:
                number = found[caller] % len(asked)
                try:
                    (answer,) = answer_of(client.recall_many([asked[number]]))
                    assert answer in by_request[number]
                    found[caller] += 1
                except Exception as error:  # noqa: BLE001
                    errors.append(error)

        threads = [threading.Thread(target=call, args=(caller,)) for caller in range(NUM_CALLERS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            source = other_bundle if num_published % 2 == 0 else export.bundle
            version = max(publisher.store.versions()) + 1
            publisher.publish(bundle_copy(source, tmp_path / str(version), version=version))
            num_published += 1
        for thread in threads:
            thread.join()
    assert errors == []
    assert sum(found) >= 10_000
    assert num_published >= 4
    assert len(all_versions(folder / "models")["prefill"]) < num_published


def test_a_pruned_version_is_no_longer_served_and_the_rest_goes_on(
    world: tuple[Path, TritonServer], export: Export, answers: dict[int, tuple[object, ...]]
) -> None:
    folder, server = world
    first, second = sorted(answers)
    with RecallClient(server.url, bundle=folder / "bundles", timeout_s=TIMEOUT_S) as client, Callers(client) as callers:
        publisher_of(world, keep=1).publish(folder / "bundles" / str(second))
    assert callers.errors == []
    assert set(callers.answers) == {answers[second]}
    assert all_versions(folder / "models") == {
        name: [second] for name in ("prefill", "decode", "interests_2", "recall_2", "recall_engine")
    }
    with pytest.raises(ModelUnavailableError, match=f"version {first}"):
        RecallClient(server.url, bundle=export.bundle, timeout_s=TIMEOUT_S)


def test_a_server_without_explicit_control_says_how_to_start_it(
    other_bundle: Path, served: object, tmp_path: Path
) -> None:
    url = served.server.url  # type: ignore[attr-defined]
    write_repository(tmp_path / "models", Bundle.open(other_bundle).graphs(), 1)
    publisher = Publisher(tmp_path / "bundles", model_repository=tmp_path / "models", urls=[url], say=quiet)
    with pytest.raises(ServerRefusedError, match="--model-control-mode=explicit --load-model='\\*'"):
        publisher.publish(other_bundle)
    assert publisher.store.state().current is None
    assert all_versions(tmp_path / "models")["prefill"] == [1]
