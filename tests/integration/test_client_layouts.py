"""Both clients in the layouts where a real server recalls: the engine's answers and errors, and no index here."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from test_client import TIMEOUT_S, assert_same
from test_one_hop import filtered, up_to_two
from tiny_model import Served, bundle_copy, random_requests

from recgpt import AsyncRecallClient, RecallClient
from recgpt.bundle import EXAMPLES, INDEX
from recgpt.engine import Engine
from recgpt.errors import (
    BundleCorruptError,
    BundleError,
    BundleMismatchError,
    ConfigError,
    ModelUnavailableError,
    QuotaError,
    RequestError,
    ShortfallError,
)
from recgpt.types import Candidates, RecallRequest

ONE_HOP = ("graph", "engine")


@pytest.fixture(scope="module")
def engine(served_bundle: Path) -> Iterator[Engine]:
    """With the graphs that are served, step by step where they are; other graphs may round a near tie otherwise."""
    with Engine.load(served_bundle, num_threads=1) as engine:
        yield engine


def requests_for(recall_by: str, number: int, *, seed: int) -> list[RecallRequest]:
    """Requests that this layout can answer, with all the filters that it has."""
    if recall_by == "graph":
        return filtered(up_to_two(random_requests(number, seed=seed)), seed=seed, allowed=False)
    return filtered(random_requests(number, seed=seed), seed=seed, allowed=True)


def recall(kind: str, requests: Sequence[RecallRequest], url: str, **options) -> list[Candidates]:
    """By either client."""
    options = {"timeout_s": TIMEOUT_S} | options
    if kind == "sync":
        with RecallClient(url, **options) as client:
            return client.recall_many(requests)

    async def recall_many() -> list[Candidates]:
        async with AsyncRecallClient(url, **options) as client:
            return await client.recall_many(requests)

    return asyncio.run(recall_many())


@pytest.mark.parametrize("recall_by", ["client", *ONE_HOP])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_answers_are_the_engines_with_every_filter_that_the_layout_has(
    kind: str, recall_by: str, served: Served, served_bundle: Path, engine: Engine
) -> None:
    requests = requests_for(recall_by, 80, seed=41)
    assert any(request.blocked for request in requests)
    found = recall(kind, requests, served.server.url, bundle=served_bundle, recall_by=recall_by)
    assert_same(found, engine.recall_many(requests))
    assert all(set(answer.item_ids).isdisjoint(one.blocked) for answer, one in zip(found, requests, strict=True))


@pytest.mark.parametrize("recall_by", ["client", *ONE_HOP])
def test_errors_are_the_engines(recall_by: str, served: Served, served_bundle: Path) -> None:
    with RecallClient(served.server.url, bundle=served_bundle, recall_by=recall_by, timeout_s=TIMEOUT_S) as client:
        with pytest.raises(ShortfallError, match="k = 300") as caught:
            client.recall(["i1", "i2"], k=300)
        assert (caught.value.requested, caught.value.available) == (300, 298)
        with pytest.raises(ShortfallError) as caught:
            client.recall(["i1"], k=3, allowed=["nowhere"])
        assert (caught.value.requested, caught.value.available) == (3, 0)
        with pytest.raises(QuotaError, match="21 quotas"):
            client.recall(["i1"], k=21, quotas=[1] * 21)
        with pytest.raises(RequestError, match="expected a RecallRequest"):
            client.recall_many(["no request"])  # type: ignore[list-item]


def test_what_the_graphs_cannot_do_is_refused_with_what_can(served: Served, served_bundle: Path) -> None:
    plain = RecallRequest(history=["i1"], k=6)
    with RecallClient(served.server.url, bundle=served_bundle, recall_by="graph", timeout_s=TIMEOUT_S) as client:
        for wrong in ({"allowed": [f"i{n}" for n in range(9, 20)]}, {"merge": "probability"}, {"quotas": (2, 2, 2)}):
            with pytest.raises(RequestError, match="recall_by='engine'"):
                client.recall_many([replace(plain, **wrong)])


@pytest.mark.parametrize("recall_by", ONE_HOP)
def test_many_threads_each_get_their_own_users_answer(
    recall_by: str, served: Served, served_bundle: Path, engine: Engine
) -> None:
    requests = requests_for(recall_by, 120, seed=42)
    with (
        RecallClient(served.server.url, bundle=served_bundle, recall_by=recall_by, timeout_s=TIMEOUT_S) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        found = list(pool.map(lambda request: client.recall_many([request])[0], requests))
    assert_same(found, engine.recall_many(requests))


WITHOUT_FAISS = """
import sys


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("faiss", "onnxruntime", "onnx", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
from recgpt import RecallClient

url, bundle, recall_by = sys.argv[1:]
with RecallClient(url, bundle=bundle, recall_by=recall_by, timeout_s=20.0) as client:
    print(*client.recall(["i12", "i99", "i7"], user_id=300).item_ids)
"""


@pytest.mark.parametrize("recall_by", ONE_HOP)
def test_neither_faiss_nor_the_index_file_is_needed(
    recall_by: str, served: Served, served_bundle: Path, engine: Engine, tmp_path: Path
) -> None:
    light = shutil.copytree(served_bundle, tmp_path / "bundle")
    (light / INDEX).unlink()
    for graph in light.glob("*.onnx"):
        graph.unlink()
    command = [sys.executable, "-c", WITHOUT_FAISS, served.server.url, str(light), recall_by]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert tuple(result.stdout.split()) == engine.recall(["i12", "i99", "i7"], user_id=300).item_ids
    with pytest.raises(BundleCorruptError, match=INDEX):
        RecallClient(served.server.url, bundle=light, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("recall_by", ONE_HOP)
def test_who_has_no_index_says_so(recall_by: str, served: Served, served_bundle: Path) -> None:
    with RecallClient(served.server.url, bundle=served_bundle, recall_by=recall_by, timeout_s=TIMEOUT_S) as client:
        assert len(client.catalogue.item_ids) == 300
        with pytest.raises(ConfigError, match=f"recall_by = '{recall_by}'.*no index"):
            client.index  # noqa: B018
    with pytest.raises(ConfigError, match="num_threads = 2"):
        RecallClient(served.server.url, bundle=served_bundle, recall_by=recall_by, num_threads=2)


def test_another_name_is_refused_with_those_there_are(served_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="recall_by = 'server': expected one of client, graph, engine"):
        RecallClient("127.0.0.1:1", bundle=served_bundle, recall_by="server")
    with pytest.raises(ConfigError, match="recall_by"):
        AsyncRecallClient("127.0.0.1:1", bundle=served_bundle, recall_by="server")


@pytest.mark.parametrize(
    ("recall_by", "models"), [("graph", "recall_1, recall_2"), ("engine", "recall_engine")], ids=ONE_HOP
)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_server_without_the_version_is_refused(
    kind: str, recall_by: str, models: str, served: Served, served_bundle: Path, tmp_path: Path
) -> None:
    later = bundle_copy(served_bundle, tmp_path / "bundle", version=20991231000000)
    with pytest.raises(ModelUnavailableError, match=f"does not serve {models} in version 20991231000000; it has"):
        recall(kind, [], served.server.url, bundle=later, recall_by=recall_by)


@pytest.mark.parametrize("recall_by", ONE_HOP)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_server_of_another_model_in_the_same_version_is_refused(
    kind: str, recall_by: str, served: Served, served_bundle: Path, other_bundle: Path, tmp_path: Path
) -> None:
    version = int(next((served.repository / "recall_engine").glob("[0-9]*")).name)
    stranger = bundle_copy(other_bundle, tmp_path / "bundle", version=version, recalls=(2,))
    with pytest.raises(BundleMismatchError, match="another model.*serve the triton_models/ of the same export"):
        recall(kind, [], served.server.url, bundle=stranger, recall_by=recall_by)


def test_a_bundle_that_does_not_say_what_it_recalls_is_refused(
    served: Served, served_bundle: Path, tmp_path: Path
) -> None:
    old = bundle_copy(served_bundle, tmp_path / "bundle", recalled={})
    with pytest.raises(BundleError, match="export the checkpoint again"):
        RecallClient(served.server.url, bundle=old, recall_by="engine", timeout_s=TIMEOUT_S)


def test_a_test_history_is_cut_to_what_the_smallest_graph_takes(
    served: Served, served_bundle: Path, tmp_path: Path
) -> None:
    """A window of 20 holds 19 items beside the one that is generated between two steps."""
    history = [f"i{row}" for row in range(1, 31)]
    with Engine.load(served_bundle, num_threads=1) as engine:
        best = engine.recall(history[-19:], user_id=100, k=40, quotas=(40,), filter_seen=False)
        rows = engine.catalogue.item_ids.rows(best.item_ids).tolist()
    changed = shutil.copytree(served_bundle, tmp_path / "changed")
    (changed / EXAMPLES).write_text(json.dumps([{"user_id": 100, "history": history}]))
    recalled = dict(zip(rows, best.scores.tolist(), strict=True))
    asked = bundle_copy(changed, tmp_path / "bundle", recalls=(2,), recalled=recalled)
    for recall_by in ONE_HOP:
        assert recall("sync", [], served.server.url, bundle=asked, recall_by=recall_by) == []


@pytest.mark.parametrize("recall_by", ONE_HOP)
def test_the_command_recalls_in_that_layout(
    recall_by: str, served: Served, served_bundle: Path, engine: Engine
) -> None:
    recgpt = str(Path(sys.executable).with_name("recgpt"))
    command = [recgpt, "recall", "--bundle", str(served_bundle), "--user", "300", "--recall-by", recall_by]
    history = ["i12", "i99", "i7"]
    result = subprocess.run(
        [*command, "--url", served.server.url, "--history", *history], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if "interest" in line]
    assert [row[1] for row in rows] == list(engine.recall(history, user_id=300).item_ids)
    without = subprocess.run([*command, *history], capture_output=True, text=True, check=False)
    assert without.returncode == 1
    assert "without --url" in without.stderr
