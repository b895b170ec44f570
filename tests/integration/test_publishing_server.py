"""Publishing to a real Triton server that answers requests all the while: none fails, none is mixed."""

from __future__ import annotations

import contextlib
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
from recgpt.recall_by import RecallBy
from recgpt.serving.repository import all_versions, write_repository
from recgpt.serving.server import TritonServer
from recgpt.types import Candidates, RecallRequest

TIMEOUT_S = 60.0  # a busy machine is not what is tested here
NUM_PUBLISHED = 4


def quiet(text: str) -> None:
    """Progress that nobody reads."""


def requests(recall_by: RecallBy) -> list[RecallRequest]:
    """Of one and two interests; for graphs of two alone, since the second bundle has no graph that recalls from one."""
    fewest = 2 if recall_by is RecallBy.GRAPH else 1
    return [request for request in random_requests(40, seed=21) if fewest <= len(request.quotas or ()) <= 2]


Answer = tuple[object, ...]


def answer_of(candidates: list[Candidates]) -> Answer:
    return tuple((one.item_ids, one.generated_ids) for one in candidates)


@pytest.fixture(scope="module")
def answers(export: Export, other_bundle: Path) -> dict[int, dict[RecallBy, Answer]]:
    """What each version answers to the requests of each layout, by an engine of its own."""
    found = {}
    for folder in (export.bundle, other_bundle):
        with Engine.load(folder, num_threads=1) as engine:
            found[engine.bundle.manifest.version] = {
                recall_by: answer_of(engine.recall_many(requests(recall_by))) for recall_by in RecallBy
            }
    return found


Clients = dict[RecallBy, RecallClient]


@contextlib.contextmanager
def clients_of(server: TritonServer, bundle: Path, *, follow_s: float | None = None) -> Iterator[Clients]:
    """A client of every layout."""
    with contextlib.ExitStack() as stack:
        yield {
            recall_by: stack.enter_context(
                RecallClient(server.url, bundle=bundle, timeout_s=TIMEOUT_S, follow_s=follow_s, recall_by=recall_by)
            )
            for recall_by in RecallBy
        }


def ask(clients: Clients) -> dict[RecallBy, Answer]:
    return {recall_by: answer_of(client.recall_many(requests(recall_by))) for recall_by, client in clients.items()}


class Callers:
    """A thread for each client, which recalls without a pause; what each got, and what went wrong."""

    def __init__(self, clients: Clients) -> None:
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=each) for each in clients.items()]
        self.answers: dict[RecallBy, list[Answer]] = {recall_by: [] for recall_by in clients}
        self.errors: list[Exception] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _call(self, recall_by: RecallBy, client: RecallClient) -> None:
        while not self._done.is_set():
            try:
                self.answers[recall_by].append(answer_of(client.recall_many(requests(recall_by))))
            except Exception as error:  # noqa: BLE001
                self.errors.append(error)


@pytest.fixture(scope="module")
def world(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, TritonServer]]:
    """A folder with a store and a repository in which the first bundle is published, and its server."""
    folder = tmp_path_factory.mktemp("world")
    Publisher(folder / "bundles", model_repository=folder / "models", say=quiet).publish(export.bundle)
    with TritonServer(folder / "models", log=folder / "log", ready_timeout_s=2 * TIMEOUT_S, explicit=True) as server:
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
    world: tuple[Path, TritonServer], export: Export, other_bundle: Path, answers: dict[int, dict[RecallBy, Answer]]
) -> None:
    folder, server = world
    first, second = sorted(answers)
    publisher = publisher_of(world)
    with clients_of(server, folder / "bundles", follow_s=0.1) as clients:

        def follow(version: int) -> None:
            for client in clients.values():
                client.reload()
                assert client.bundle.manifest.version == version

        with Callers(clients) as callers:
            publisher.publish(other_bundle)
            follow(second)
            # Clients that have not changed over yet go on with the version before.
            with clients_of(server, export.bundle) as late:
                assert ask(late) == answers[first]
            assert publisher.roll_back() == first
            follow(first)
            publisher.publish(other_bundle)
            follow(second)
        assert ask(clients) == answers[second]
    assert callers.errors == []
    for recall_by, found in callers.answers.items():
        assert set(found) == {answers[first][recall_by], answers[second][recall_by]}
        assert len(found) > 6


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_requests_while_models_come_and_go(
    world: tuple[Path, TritonServer],
    export: Export,
    other_bundle: Path,
    answers: dict[int, dict[RecallBy, Answer]],
    tmp_path: Path,
) -> None:
    """And more, until enough was published, in every layout; each is answered by the version before or after."""
    folder, server = world
    found, errors = dict.fromkeys(RecallBy, 0), []
    publisher, num_published = publisher_of(world, keep=2, grace_s=2.0), 0
    with clients_of(server, folder / "bundles", follow_s=0.05) as clients:

        def call(recall_by: RecallBy, client: RecallClient) -> None:
            asked, right = requests(recall_by), [each[recall_by] for each in answers.values()]
            while (found[recall_by] * len(clients) < 10_000 or num_published < NUM_PUBLISHED) and not errors:
                number = found[recall_by] % len(asked)
                try:
                    (answer,) = answer_of(client.recall_many([asked[number]]))
                    assert answer in [each[number] for each in right]
                    found[recall_by] += 1
                except Exception as error:  # noqa: BLE001
                    errors.append(error)

        threads = [threading.Thread(target=call, args=each) for each in clients.items()]
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
    assert sum(found.values()) >= 10_000
    assert num_published >= NUM_PUBLISHED
    assert len(all_versions(folder / "models")["prefill"]) < num_published


def test_a_pruned_version_is_no_longer_served_and_the_rest_goes_on(
    world: tuple[Path, TritonServer], export: Export, answers: dict[int, dict[RecallBy, Answer]]
) -> None:
    folder, server = world
    first, second = sorted(answers)
    with clients_of(server, folder / "bundles") as clients, Callers(clients) as callers:
        publisher_of(world, keep=1).publish(folder / "bundles" / str(second))
    assert callers.errors == []
    assert {recall_by: set(found) for recall_by, found in callers.answers.items()} == {
        recall_by: {answer} for recall_by, answer in answers[second].items()
    }
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
