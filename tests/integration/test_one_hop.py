"""Recall as one request to a real server, in both forms: the engine's answers, one caller's errors its own."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_model import NUM_ITEMS, Served, random_requests

from recgpt.asking import drive_async
from recgpt.backends.tensors import NamedArrays
from recgpt.backends.triton import TritonBackend
from recgpt.backends.triton_model import TritonModel
from recgpt.backends.triton_network import TritonNetwork
from recgpt.bundle import Bundle
from recgpt.engine import Engine
from recgpt.errors import ModelUnavailableError, QuotaError, RequestError, ShortfallError
from recgpt.one_hop.engine_codec import MODEL, EngineCodec, id_dtype
from recgpt.one_hop.graph_codec import GraphCodec
from recgpt.one_hop.remote import RemoteRecall, recall_steps
from recgpt.serving.engine_files import tell_deleted
from recgpt.serving.repository import all_versions
from recgpt.serving.server import TritonServer
from recgpt.signature import recall_engine_spec
from recgpt.types import MERGES, Candidates, RecallRequest

# float32 sums in another order, scores of up to about 10.
TOLERANCE = 1e-4
TIMEOUT_S = 60.0  # a busy machine is not what is tested here


@pytest.fixture(scope="module")
def bundle(served_bundle: Path) -> Bundle:
    return Bundle.open(served_bundle)


@pytest.fixture(scope="module")
def folder(served: Served) -> Path:
    return served.repository


@pytest.fixture(scope="module")
def server(served: Served) -> TritonServer:
    return served.server


def connect(server: TritonServer, bundle: Bundle, version: int) -> TritonBackend:
    spec = bundle.manifest.model
    return TritonBackend(server.url, spec, fused=(), model_version=str(version), timeout_s=TIMEOUT_S)


@pytest.fixture(scope="module")
def backend(server: TritonServer, bundle: Bundle) -> Iterator[TritonBackend]:
    with closing(connect(server, bundle, bundle.manifest.version)) as opened:
        yield opened


@pytest.fixture(scope="module")
def by_graph(backend: TritonBackend, bundle: Bundle) -> RemoteRecall:
    return RemoteRecall(GraphCodec.of(bundle), backend.run)


@pytest.fixture(scope="module")
def by_engine(backend: TritonBackend, bundle: Bundle) -> RemoteRecall:
    return RemoteRecall(codec_of(bundle), backend.run)


def codec_of(bundle: Bundle) -> EngineCodec:
    catalogue = bundle.catalogue()
    item_dtype, user_dtype = id_dtype(catalogue.item_ids), id_dtype(catalogue.user_ids)
    assert (item_dtype, user_dtype) == ("string", "int64")
    return EngineCodec(item_dtype="string", user_dtype="int64")


def filtered(requests: Sequence[RecallRequest], *, seed: int, allowed: bool) -> list[RecallRequest]:
    """The same requests, some with blocked items, some with allowed ones, unknown ids among them."""
    rng = np.random.default_rng(seed)
    with_filters = []
    for request in requests:
        ids = [f"i{row}" for row in rng.permutation(np.arange(-5, NUM_ITEMS + 1))]
        with_filters.append(
            replace(
                request,
                blocked=ids[:40] if rng.random() < 0.5 else (),
                allowed=ids[20:200] if allowed and rng.random() < 0.5 else None,
                merge=str(rng.choice(MERGES)) if allowed else "quotas",
            )
        )
    return with_filters


def assert_same(found: Sequence[Candidates], expected: Sequence[Candidates]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.item_ids == other.item_ids
        assert one.generated_ids == other.generated_ids
        np.testing.assert_allclose(one.scores, other.scores, atol=TOLERANCE)
        assert one.steps.tolist() == other.steps.tolist()
        assert one.cold_start == other.cold_start
        assert one.num_unknown_filters == other.num_unknown_filters
        assert (one.scores.dtype, one.steps.dtype) == (np.float32, np.int64)


def up_to_two(requests: Sequence[RecallRequest]) -> list[RecallRequest]:
    return [request for request in requests if request.quotas is None or len(request.quotas) <= 2]


def test_the_graph_gives_the_engines_answers(by_graph: RemoteRecall, engine: Engine) -> None:
    requests = filtered(up_to_two(random_requests(120, seed=5)), seed=6, allowed=False)
    requests += [RecallRequest(history=[f"i{row}" for row in range(1, 251)], k=20)]  # longer than the window: all seen
    requests += [RecallRequest(history=["i1"]), RecallRequest(history=[], k=250), RecallRequest(history=["?"], k=3)]
    assert any(request.blocked for request in requests)
    assert_same(by_graph.recall_many(requests), engine.recall_many(requests))
    assert by_graph.recall_many([]) == []


def test_the_engine_on_the_server_gives_the_engines_answers(by_engine: RemoteRecall, engine: Engine) -> None:
    requests = filtered(random_requests(150, seed=7), seed=8, allowed=True)
    requests += [RecallRequest(history=["i1", 7, "i3"], user_id=None), RecallRequest(history=[], k=250)]
    requests += [RecallRequest(history=["i5"], user_id="nobody"), RecallRequest(history=["é", "i9"], blocked=["ü", 4])]
    requests += [RecallRequest(history=["i5"], user_id=2**70)]
    assert_same(by_engine.recall_many(requests), engine.recall_many(requests))
    assert by_engine.recall_many([]) == []


def test_more_requests_than_a_call_may_have_rows(by_engine: RemoteRecall, engine: Engine) -> None:
    requests = [RecallRequest(history=[f"i{1 + number % 300}"], k=2) for number in range(300)]
    assert_same(by_engine.recall_many(requests), engine.recall_many(requests))


@pytest.mark.parametrize("form", ["by_graph", "by_engine"])
def test_errors_are_those_of_the_engine(form: str, request: pytest.FixtureRequest) -> None:
    remote: RemoteRecall = request.getfixturevalue(form)
    with pytest.raises(ShortfallError, match="k = 300") as caught:
        remote.recall_many([RecallRequest(history=["i1"]), RecallRequest(history=["i1", "i2"], k=300)])
    assert (caught.value.requested, caught.value.available) == (300, 298)
    with pytest.raises(ShortfallError) as caught:
        remote.recall_many([RecallRequest(history=["i1"], k=3, allowed=[7])])
    assert (caught.value.requested, caught.value.available) == (3, 0)
    with pytest.raises(QuotaError, match="21 quotas"):
        remote.recall_many([RecallRequest(history=["i1"], k=21, quotas=[1] * 21)])


def test_what_a_graph_cannot_do_is_refused_with_what_can(by_graph: RemoteRecall) -> None:
    plain = RecallRequest(history=["i1"], k=6)
    for wrong in ({"allowed": ["i2", *(f"i{n}" for n in range(9, 20))]}, {"merge": "probability"}, {"k": 150}):
        with pytest.raises(RequestError, match="recall_engine"):
            by_graph.recall_many([replace(plain, **wrong)])
    with pytest.raises(RequestError, match=r"3 quotas: expected one of \[1, 2\]"):
        by_graph.recall_many([replace(plain, quotas=(2, 2, 2))])


def test_callers_are_answered_together_and_one_error_stays_alone(
    by_engine: RemoteRecall, engine: Engine, backend: TritonBackend
) -> None:
    requests = filtered(random_requests(240, seed=9), seed=10, allowed=True)
    expected = engine.recall_many(requests)
    bad = RecallRequest(history=["i1", "i2"], k=300)
    failures: list[int] = []
    done = threading.Event()

    def disturb() -> None:
        while not done.is_set():
            try:
                by_engine.recall_many([bad])
            except ShortfallError as error:
                failures.append(error.available)

    before = executions(backend)
    with ThreadPoolExecutor(18) as pool:
        disturbing = [pool.submit(disturb) for _ in range(2)]
        found = list(pool.map(lambda request: by_engine.recall_many([request])[0], requests))
        done.set()
        for future in disturbing:
            future.result()
    assert_same(found, expected)
    assert failures and set(failures) == {298}
    num_runs, num_rows = (after - start for after, start in zip(executions(backend), before, strict=True))
    assert num_runs < num_rows


def executions(backend: TritonBackend) -> tuple[int, int]:
    counted = backend.statistics()[MODEL]
    return counted.num_executions, counted.num_inferences


def test_one_call_of_different_histories_is_padded_and_each_row_has_its_own_answer(
    by_engine: RemoteRecall, engine: Engine
) -> None:
    requests = [RecallRequest(history=[f"i{row}" for row in range(1, 1 + length)], k=4) for length in (1, 30, 2, 7)]
    assert_same(by_engine.recall_many(requests), engine.recall_many(requests))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"lengths": np.array([[9]])}, "lengths 9..9"),
        ({"lengths": np.array([[-1]])}, "lengths -1..-1"),
        ({"k": np.array([[0]])}, "k = 0"),
        ({"quotas": np.array([[3, -1, 8]])}, "quotas"),
        ({"quotas": np.array([[4, 0, 6]])}, "quotas"),
        ({"merge": np.array([[b"borda"]], dtype=object)}, "borda"),
        ({"segment_ids": np.array([[7, 0]])}, "segments"),
        ({"segment_ids": np.array([[1]])}, "segments"),
        ({"history": np.array([[b"\xff", b"i1"]], dtype=object)}, "UTF-8"),
    ],
)
def test_malformed_inputs_are_refused_by_name(
    backend: TritonBackend, bundle: Bundle, changes: NamedArrays, what: str
) -> None:
    request = RecallRequest(history=["i1", "i2"], quotas=(9, 1))
    feeds = codec_of(bundle).feeds([request]) | changes
    with pytest.raises(RequestError, match=what):
        backend.run(recall_engine_spec("string", "int64"), feeds)


def test_a_version_that_is_not_served_is_said_to_be(server: TritonServer, bundle: Bundle) -> None:
    with closing(connect(server, bundle, 3)) as other, pytest.raises(ModelUnavailableError):
        RemoteRecall(codec_of(bundle), other.run).recall_many([RecallRequest(history=["i1"])])


def test_the_same_algorithm_can_be_awaited(server: TritonServer, bundle: Bundle, engine: Engine) -> None:
    requests = filtered(random_requests(30, seed=11), seed=12, allowed=True)
    model = TritonModel(bundle.manifest.model, fused=(), version=str(bundle.manifest.version))

    async def recall() -> list[Candidates]:
        connection = TritonNetwork().connect_async(server.url)
        try:
            steps = recall_steps(codec_of(bundle), model.run, requests)
            return await drive_async(steps, lambda rpc: connection.call(rpc, TIMEOUT_S))
        finally:
            await connection.close()

    assert_same(asyncio.run(recall()), engine.recall_many(requests))


def test_deleted_items_are_no_longer_recalled_by_the_running_server(
    folder: Path, by_engine: RemoteRecall, engine: Engine, bundle: Bundle
) -> None:
    request = RecallRequest(history=["i3", "i8"], k=5)
    [before] = engine.recall_many([request])
    gone = before.item_ids[1]
    tell_deleted(folder, [gone], revision=1)
    try:
        with ExitStack() as stack:
            expected = stack.enter_context(
                Engine.load(folder / MODEL / str(bundle.manifest.version) / "bundle", num_threads=1)
            ).recall_many([request])
        assert gone not in expected[0].item_ids
        told = threading.Event()
        for _ in range(300):
            [found] = by_engine.recall_many([request])
            if gone not in found.item_ids:
                break
            told.wait(0.1)
        assert_same([found], expected)
    finally:
        tell_deleted(folder, [], revision=2)
        for _ in range(300):
            if gone in by_engine.recall_many([request])[0].item_ids:
                break
            told.wait(0.1)


def test_a_version_folder_is_whole_by_itself(folder: Path, bundle: Bundle, tmp_path: Path, engine: Engine) -> None:
    version = str(bundle.manifest.version)
    assert all_versions(folder)[MODEL] == [bundle.manifest.version]
    moved = shutil.copytree(folder / MODEL / version, tmp_path / "moved")
    assert {"bundle", "model.py"} <= {path.name for path in moved.iterdir()}
    with Engine.load(moved / "bundle", num_threads=1) as other:
        request = RecallRequest(history=["i4"])
        assert other.recall_many([request])[0].item_ids == engine.recall_many([request])[0].item_ids
