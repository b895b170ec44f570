"""What goes wrong between a client and a real server, and what the client then says; afterwards all is as before."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import pytest
from raw_requests import Raw, with_array
from test_client import assert_same
from test_client_layouts import requests_for
from test_raw_requests import KNOWN
from tiny_model import Export, Graphs, Served, bundle_copy, random_requests
from tritonclient.grpc import service_pb2, service_pb2_grpc

from recgpt import CallPolicy, RecallClient, signature
from recgpt.backends import triton_network
from recgpt.backends.triton import TritonBackend
from recgpt.backends.triton_rpc import ModelStatistics
from recgpt.bundle import Bundle
from recgpt.engine import Engine
from recgpt.errors import (
    ModelUnavailableError,
    RequestTooLargeError,
    ServerError,
    ServerOverloadedError,
    ServerTimeoutError,
)
from recgpt.one_hop.engine_codec import MODEL, EngineCodec
from recgpt.recall_by import RecallBy
from recgpt.serving.control import ModelControl
from recgpt.serving.engine_files import EngineFiles
from recgpt.serving.repository import BOUNDED, MAX_QUEUE_MICROSECONDS, write_repository
from recgpt.serving.server import TritonServer
from recgpt.types import Candidates, RecallRequest

TIMEOUT_S = 60.0  # a busy machine is not what is tested here
ONCE = CallPolicy(max_attempts=1)
VERSION = 7


@pytest.fixture(scope="module")
def bundle(served_bundle: Path) -> Path:
    return served_bundle


@pytest.fixture
def models(small_graphs: Graphs, tmp_path: Path) -> Path:
    """A repository of this test's own, in version ``VERSION``."""
    write_repository(tmp_path / "models", small_graphs.files, VERSION)
    return tmp_path / "models"


@pytest.fixture
def own_bundle(export: Export, tmp_path: Path) -> Path:
    return bundle_copy(export.bundle, tmp_path / "bundle", version=VERSION, num_interests=(2,))


@dataclass
class Callers:
    """Threads that recall until they are told to stop; each has a request of its own."""

    client: RecallClient
    requests: list[RecallRequest]
    answers: list[tuple[int, Candidates]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(len(self.requests))]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not what():
            assert time.monotonic() < deadline, (len(self.answers), self.errors[-3:])
            self._done.wait(0.01)

    def _call(self, number: int) -> None:
        while not self._done.is_set():
            try:
                self.answers.append((number, self.client.recall_many([self.requests[number]])[0]))
            except Exception as error:  # noqa: BLE001
                self.errors.append(error)
                self._done.wait(0.05)


def test_a_server_killed_in_the_middle_of_requests_is_missed_and_found_again(
    models: Path, own_bundle: Path, engine: Engine, tmp_path: Path
) -> None:
    requests = random_requests(8, seed=31)
    expected = engine.recall_many(requests)
    with TritonServer(models, log=tmp_path / "first.log", ready_timeout_s=TIMEOUT_S) as first:
        port = int(first.url.rpartition(":")[2])
        with (
            RecallClient(first.url, bundle=own_bundle, timeout_s=TIMEOUT_S, policy=ONCE) as client,
            Callers(client, requests) as callers,
        ):
            callers.wait_for(lambda: len(callers.answers) > 50)
            os.kill(first.pid, signal.SIGKILL)
            callers.wait_for(lambda: len(callers.errors) >= len(expected))
            first.stop()
            before = len(callers.answers)
            with TritonServer(models, grpc_port=port, log=tmp_path / "second.log", ready_timeout_s=TIMEOUT_S):
                callers.wait_for(lambda: len(callers.answers) > before + 50)
    assert all(isinstance(error, ServerError) for error in callers.errors), callers.errors
    for number, answer in callers.answers:
        assert_same([answer], [expected[number]])


def test_a_server_without_the_models_is_ready_and_says_which_are_missing(
    models: Path, own_bundle: Path, engine: Engine, tmp_path: Path
) -> None:
    """Then they come, one by one; one that cannot be loaded makes a server that is there and not ready."""
    arguments = ["--model-control-mode=explicit"]
    (models / "stranger" / "1").mkdir(parents=True)
    (models / "stranger" / "1" / "model.onnx").write_bytes(b"no graph")
    config = (models / "prefill" / "config.pbtxt").read_text()
    (models / "stranger" / "config.pbtxt").write_text(config.replace('"prefill"', '"stranger"'))
    with (
        TritonServer(models, log=tmp_path / "log", ready_timeout_s=TIMEOUT_S, arguments=arguments) as server,
        ModelControl(server.url) as control,
    ):
        with pytest.raises(ModelUnavailableError, match="does not serve prefill, decode, interests_2"):
            RecallClient(server.url, bundle=own_bundle, timeout_s=TIMEOUT_S)
        control.load(["prefill", "decode"])
        with pytest.raises(ModelUnavailableError, match="does not serve interests_2"):
            RecallClient(server.url, bundle=own_bundle, timeout_s=TIMEOUT_S)
        control.load(["interests_2"])
        requests = random_requests(5, seed=32)
        with RecallClient(server.url, bundle=own_bundle, timeout_s=TIMEOUT_S) as client:
            assert_same(client.recall_many(requests), engine.recall_many(requests))
            assert says_ready(server.url)
            with pytest.raises(ModelUnavailableError, match="cannot load stranger"):
                control.load(["stranger"])
            assert not says_ready(server.url)
            # Who needs other models goes on, and may come.
            assert_same(client.recall_many(requests), engine.recall_many(requests))
            with RecallClient(server.url, bundle=own_bundle, timeout_s=TIMEOUT_S) as another:
                assert_same(another.recall_many(requests), engine.recall_many(requests))
        control.unload(["interests_2"])
        assert not says_ready(server.url)
        with pytest.raises(ModelUnavailableError, match="does not serve interests_2 .* is not ready"):
            RecallClient(server.url, bundle=own_bundle, timeout_s=TIMEOUT_S)


def says_ready(url: str) -> bool:
    """What the server's readiness endpoint says, by which load balancers go."""
    with grpc.insecure_channel(url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return bool(stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=TIMEOUT_S).ready)


def test_a_deadline_shorter_than_the_work_is_an_error_in_time_and_the_next_call_is_right(
    served: Served, bundle: Path, engine: Engine
) -> None:
    few = random_requests(5, seed=33)
    many = few * 10_000  # takes several seconds
    with RecallClient(served.server.url, bundle=bundle, timeout_s=1.0, policy=ONCE) as client:
        start = time.monotonic()
        with pytest.raises(ServerTimeoutError, match="timeout_s"):
            client.recall_many(many)
        # So many are encoded before the first is sent, which no deadline interrupts; see below for one alone.
        assert time.monotonic() - start < 10.0
    with RecallClient(served.server.url, bundle=bundle, timeout_s=TIMEOUT_S, policy=ONCE) as client:
        assert_same(client.recall_many(few), engine.recall_many(few))


QUEUE, NUM_CALLS = 4, 400


def full_message(model: str) -> Any:
    """A request of as many rows as a model takes at once."""
    if model == MODEL:
        codec = EngineCodec(item_dtype="string", user_dtype="int64")
        return Raw(codec.feeds([RecallRequest(history=["i5", "i9"], k=10)] * 256), model=MODEL).message()
    full = Raw({name: np.repeat(array, 256, axis=0) for name, array in KNOWN.arrays.items()})
    return with_array(full, signature.EXCLUDED_IDS, np.zeros((256, 1), dtype=np.int64)).message()


@contextlib.contextmanager
def inferring(url: str) -> Iterator[Any]:
    """The raw call."""
    with grpc.insecure_channel(url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer


def seconds_alone(infer: Any, message: Any) -> float:
    """What a call takes that nobody is before, after the first."""
    infer(message, timeout=TIMEOUT_S)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        infer(message, timeout=TIMEOUT_S)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def test_a_request_whose_time_is_over_is_dropped_from_the_queue(served: Served, bundle: Path) -> None:
    message, request = full_message("interests_2"), RecallRequest(history=["i5", "i9"], k=10, quotas=(5, 5))
    url, version = served.server.url, str(Bundle.open(bundle).manifest.version)
    backend = TritonBackend(url, served.graphs.spec, fused=(2,), model_version=version, timeout_s=TIMEOUT_S)
    with (
        contextlib.closing(backend),
        inferring(url) as infer,
        RecallClient(url, bundle=bundle, timeout_s=1.0, policy=ONCE) as client,
    ):
        many = int(10.0 / seconds_alone(infer, message))  # takes several seconds, less where sending takes long
        before = settled(backend, "interests_2")
        futures = [infer.future(message, timeout=TIMEOUT_S) for _ in range(many)]
        start = time.monotonic()
        with pytest.raises(ServerTimeoutError, match="timeout_s"):
            client.recall_many([request])
        assert time.monotonic() - start < 5.0  # a busy machine's; the deadline is 1
        assert not futures[-1].done()
        for future in futures:
            future.result()
        after = settled(backend, "interests_2")
        client.recall_many([request])
        again = settled(backend, "interests_2")
    assert (after.num_inferences - before.num_inferences, after.num_failures - before.num_failures) == (many * 256, 1)
    assert (again.num_inferences - after.num_inferences, again.num_failures - after.num_failures) == (1, 0)


def settled(backend: TritonBackend, model: str) -> ModelStatistics:
    """What the server has counted, once it stands still: it counts a call after it has answered it."""
    last, now = None, backend.statistics()[model]
    while now != last:
        time.sleep(0.5)
        last, now = now, backend.statistics()[model]
    return now


@pytest.fixture(scope="module")
def bounded(small_graphs: Graphs, served_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server whose models have queues of ``QUEUE`` requests at most."""
    folder, bundle = tmp_path_factory.mktemp("bounded"), Bundle.open(served_bundle)
    models = folder / "models"
    write_repository(models, small_graphs.files, bundle.manifest.version, engine=EngineFiles.of(bundle))
    for settings in models.glob(f"*/{BOUNDED}"):
        settings.write_text(re.sub(r"max_queue_size: \d+", f"max_queue_size: {QUEUE}", settings.read_text()))
    arguments = ["--model-config-name=bounded"]
    with TritonServer(models, log=folder / "log", arguments=arguments, ready_timeout_s=3 * TIMEOUT_S) as server:
        yield server.url


@pytest.mark.parametrize("model", ["interests_2", MODEL])
def test_at_many_times_what_it_can_do_a_bounded_server_refuses_and_stays_quick(bounded: str, model: str) -> None:
    message = full_message(model)
    with inferring(bounded) as infer:
        alone_s = seconds_alone(infer, message)
        ended: dict[int, float] = {}
        started, futures = [], []
        for number in range(NUM_CALLS):
            started.append(time.perf_counter())
            futures.append(infer.future(message, timeout=TIMEOUT_S))
            futures[-1].add_done_callback(lambda _, number=number: ended.setdefault(number, time.perf_counter()))
        errors = [future.exception() for future in futures]
        again = infer(message, timeout=TIMEOUT_S)
    refused = [error for error in errors if error is not None]
    accepted_s = [ended[number] - started[number] for number, error in enumerate(errors) if error is None]
    assert all(error.code() is grpc.StatusCode.UNAVAILABLE for error in refused)
    # The last ones of the queue may wait until Triton 2.51 looks at them, see recgpt.serving.repository.
    words = ("maximum queue size", "timeout expired")
    assert all(any(word in error.details() for word in words) for error in refused)
    assert len(refused) > 0.8 * NUM_CALLS
    assert accepted_s
    # Whoever is accepted waits for those before, at most for as long as the settings say, and is run; without a bound
    # the last would wait for all. A second, and a quarter of all, are for a busy machine.
    assert max(accepted_s) < MAX_QUEUE_MICROSECONDS / 1e6 + 1.0 + alone_s * NUM_CALLS / 4
    assert again.raw_output_contents


@pytest.mark.parametrize(("recall_by", "model"), [("client", "interests_2"), ("engine", MODEL)])
def test_a_client_is_told_of_overload_and_answered_once_it_is_over(
    bounded: str, bundle: Path, engine: Engine, recall_by: str, model: str
) -> None:
    message, done = full_message(model), threading.Event()
    request = RecallRequest(history=["i5", "i9"], k=10, quotas=(5, 5))

    def press() -> None:
        while not done.is_set():
            try:
                infer(message, timeout=TIMEOUT_S)
            except grpc.RpcError:
                done.wait(0.01)

    with (
        inferring(bounded) as infer,
        RecallClient(bounded, bundle=bundle, timeout_s=TIMEOUT_S, policy=ONCE, recall_by=recall_by) as client,
    ):
        others = [threading.Thread(target=press) for _ in range(4 * QUEUE)]
        for other in others:
            other.start()
        try:
            with Callers(client, [request]) as callers:
                callers.wait_for(lambda: any(isinstance(error, ServerOverloadedError) for error in callers.errors))
        finally:
            done.set()
            for other in others:
                other.join()
        # See above: what waited too long is refused too.
        assert {type(error) for error in callers.errors} <= {ServerOverloadedError, ServerTimeoutError}
        assert_same(client.recall_many([request]), engine.recall_many([request]))


def test_a_message_above_the_limit_is_an_error_that_says_so(
    served: Served, bundle: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = ("grpc.max_send_message_length", 2**16)
    monkeypatch.setattr(triton_network, "_CHANNEL", [limit, *triton_network._CHANNEL[1:]])
    few = random_requests(5, seed=37)
    with RecallClient(served.server.url, bundle=bundle, timeout_s=TIMEOUT_S) as client:
        with pytest.raises(RequestTooLargeError, match="larger than max .* send fewer requests at a time"):
            client.recall_many(few * 400)
        assert_same(client.recall_many(few), engine.recall_many(few))


CALLERS = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
sys.path[:0] = sys.argv[1:3]
from test_client import assert_same
from test_client_layouts import requests_for
from tiny_model import random_requests
from recgpt import RecallClient
from recgpt.engine import Engine

url, bundle, seed = sys.argv[3:]
requests = random_requests(64, seed=int(seed))
with Engine.load(bundle, num_threads=1) as engine:
    expected = engine.recall_many(requests)
together = threading.Barrier(64)
with RecallClient(url, bundle=bundle, timeout_s=120.0) as client:
    def call(number):
        together.wait()
        return [client.recall_many([requests[number]])[0] for _ in range(10)]
    with ThreadPoolExecutor(64) as pool:
        found = list(pool.map(call, range(64)))
for answers, one in zip(found, expected):
    assert_same(answers, [one] * len(answers))
print(sum(map(len, found)))
"""


def test_two_processes_of_64_threads_each_get_their_own_users_answers(served: Served, bundle: Path) -> None:
    folders = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
    command = [sys.executable, "-c", CALLERS, *folders, served.server.url, str(bundle)]
    callers = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in (34, 35)
    ]
    for caller in callers:
        out, err = caller.communicate(timeout=280)
        assert out.split() == ["640"], err


SOAK_S = float(os.environ.get("SOAK_S", "1200"))
SAMPLE_S = min(10.0, SOAK_S / 40)
# Pools that are filled one after the other; a leak of 100 bytes a request is several times as much in 20 minutes.
ROOM_MB = 30.0


def resident_mb(session: int) -> float:
    """Memory of all processes that one server consists of."""
    pages = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            pages += int((process / "statm").read_text().split()[1]) if int(fields[3]) == session else 0
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + 600)
def test_memory_stays_flat_under_right_and_wrong_requests(served: Served, bundle: Path, engine: Engine) -> None:
    """In every layout at once."""
    wrong = with_array(KNOWN, signature.USER_IDS, np.array([[-1]])).message()
    wide = with_array(KNOWN, signature.INPUT_IDS, np.ones((1, 10_000), dtype=np.int64)).message()
    server_mb, client_mb, num_answers = [], [], dict.fromkeys(RecallBy, 0)
    with contextlib.ExitStack() as stack:
        infer = service_pb2_grpc.GRPCInferenceServiceStub(
            stack.enter_context(grpc.insecure_channel(served.server.url))
        ).ModelInfer
        callers, expected = {}, {}
        for recall_by in RecallBy:
            client = RecallClient(served.server.url, bundle=bundle, timeout_s=TIMEOUT_S, recall_by=recall_by)
            requests = requests_for(recall_by, 16, seed=36)
            expected[recall_by] = engine.recall_many(requests)
            callers[recall_by] = stack.enter_context(Callers(stack.enter_context(client), requests))
        end = time.monotonic() + SOAK_S
        while time.monotonic() < end:
            time.sleep(SAMPLE_S)
            for message in (wrong, wide):
                with pytest.raises(grpc.RpcError):
                    infer(message, timeout=TIMEOUT_S)
            for recall_by, several in callers.items():
                assert several.errors == []
                answered, several.answers = several.answers, []
                num_answers[recall_by] += len(answered)
                for number, answer in answered:
                    assert_same([answer], [expected[recall_by][number]])
            server_mb.append(resident_mb(served.server.pid))
            client_mb.append(own_mb())
    assert all(num_answers.values()), num_answers
    for sizes in (server_mb, client_mb):
        quarter = len(sizes) // 4
        assert np.median(sizes[-quarter:]) < np.median(sizes[quarter : 2 * quarter]) + ROOM_MB, sizes


def own_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
