"""A real server over exported graphs: answers, batching, and what goes wrong, one request at a time."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from tritonclient import grpc as grpcclient
from tritonclient.utils import InferenceServerException

from recgpt import signature
from recgpt.backends.base import Tokens
from recgpt.backends.onnxruntime import OnnxRuntimeBackend
from recgpt.backends.tensors import prefill_feeds
from recgpt.backends.triton import TritonBackend
from recgpt.errors import ModelUnavailableError, RequestError, ServerTimeoutError, ServerUnavailableError

VERSION = "20261121080000"

# Triton counts a request after it has answered it.
COUNTED_S = 10.0

# The same graph in the same library, batched or padded otherwise: float32 sums in another order, values of about 1.
TOLERANCE = 1e-5


def tokens(lengths, *, seed=0, num_excluded=3, num_items=300):
    generator = np.random.default_rng(seed)
    lengths = np.array(lengths, dtype=np.int64)
    real = np.arange(lengths.max()) < lengths[:, None]
    rows = generator.integers(1, num_items + 1, real.shape) * real
    return Tokens(
        user_rows=generator.integers(0, 11, len(lengths)),
        item_rows=rows,
        segments=np.zeros_like(rows),
        lengths=lengths,
        excluded=generator.integers(1, num_items + 1, (len(lengths), num_excluded)),
    )


def connect(served, *, url=None, version=VERSION, fused=(2,), timeout_s=20.0):
    return closing(
        TritonBackend(
            url or served.server.url, served.graphs.spec, fused=fused, model_version=version, timeout_s=timeout_s
        )
    )


@pytest.fixture
def backend(served):
    with connect(served) as made:
        yield made


@pytest.fixture(scope="module")
def direct(small_graphs):
    with closing(OnnxRuntimeBackend(small_graphs.files, small_graphs.spec, num_threads=1)) as made:
        yield made


def send(served, feeds, *, model="prefill", version=VERSION):
    """One request by the plain client library, past every check of ours."""
    names = {np.dtype(np.int64): "INT64", np.dtype(np.float32): "FP32", np.dtype(np.int32): "INT32"}
    inputs = []
    for name, array in feeds.items():
        inputs.append(grpcclient.InferInput(name, list(array.shape), names[array.dtype]))
        inputs[-1].set_data_from_numpy(array)
    with closing(grpcclient.InferenceServerClient(served.server.url)) as client:
        return client.infer(model, inputs, model_version=version, client_timeout=20)


def assert_serves(backend, direct):
    asked = tokens([4])
    np.testing.assert_allclose(backend.prefill(asked).interest, direct.prefill(asked).interest, atol=TOLERANCE)


def test_answers_are_those_of_onnx_runtime_on_the_same_files(backend, direct):
    asked = tokens([1, 5, 13, 19])
    served_step, direct_step = backend.prefill(asked), direct.prefill(asked)
    np.testing.assert_allclose(served_step.interest, direct_step.interest, atol=TOLERANCE)
    np.testing.assert_array_equal(served_step.next_rows, direct_step.next_rows)
    assert served_step.key_values.shape == direct_step.key_values.shape

    new = replace(
        asked, item_rows=direct_step.next_rows[:, None], segments=np.ones((4, 1), dtype=np.int64), lengths=asked.lengths
    )
    served_next, direct_next = backend.decode(new, served_step.key_values), direct.decode(new, direct_step.key_values)
    np.testing.assert_allclose(served_next.interest, direct_next.interest, atol=TOLERANCE)
    np.testing.assert_allclose(served_next.key_values, direct_next.key_values, atol=TOLERANCE)

    served_all, direct_all = backend.interests(asked, 2), direct.interests(asked, 2)
    np.testing.assert_allclose(served_all.interests, direct_all.interests, atol=TOLERANCE)
    np.testing.assert_array_equal(served_all.generated_rows, direct_all.generated_rows)


def test_a_batch_beyond_the_servers_limit_is_split_and_put_together_in_order(backend, direct):
    asked = tokens(np.random.default_rng(1).integers(1, 8, 600))
    np.testing.assert_allclose(backend.prefill(asked).interest, direct.prefill(asked).interest, atol=TOLERANCE)


@pytest.mark.parametrize("longest", [8, 19], ids=["one_width", "all_widths"])
def test_concurrent_single_requests_are_batched_and_each_gets_its_own_answer(backend, direct, longest):
    lengths = [1 + number % longest for number in range(400)]
    requests = [tokens([length], seed=number, num_excluded=length) for number, length in enumerate(lengths)]
    backend.prefill(requests[0])
    # Requests only wait for each other while the model is busy, so four clients keep it so, with full batches.
    full, done = tokens(np.full(256, 8)), threading.Event()

    def keep_busy() -> int:
        num_runs = 0
        while not done.is_set():
            backend.prefill(full)
            num_runs += 1
        return num_runs

    before = backend.statistics()["prefill"]
    with ThreadPoolExecutor(36) as pool:
        busy = [pool.submit(keep_busy) for _ in range(4)]
        answers = list(pool.map(backend.prefill, requests))
        done.set()
    num_full = sum(client.result() for client in busy)
    expected, deadline = before.num_inferences + 400 + 256 * num_full, time.monotonic() + COUNTED_S
    while (after := backend.statistics()["prefill"]).num_inferences < expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert after.num_inferences == expected
    # Lengths and exclusions differ, and still they run together, since they are padded to the same few widths.
    assert after.num_executions - before.num_executions - num_full < len(requests)
    assert after.num_failures == before.num_failures
    assert after.compute_infer_ns > before.compute_infer_ns
    for request, answer in zip(requests, answers, strict=True):
        np.testing.assert_allclose(answer.interest, direct.prefill(request).interest, atol=TOLERANCE)


def test_health_and_metrics_are_served(served, backend):
    backend.check_ready()
    backend.prefill(tokens([3]))
    with urllib.request.urlopen(f"{served.server.http_url}/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(served.server.metrics_url, timeout=10) as answer:
        metrics = answer.read().decode()
    assert f'nv_inference_request_success{{model="prefill",version="{VERSION}"}}' in metrics


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (signature.INPUT_IDS, np.ones((1, 4), dtype=np.int32), "data-type|datatype|INT32"),
        (signature.INPUT_IDS, np.ones((1, 4, 1), dtype=np.int64), "shape"),
        (signature.SEGMENT_IDS, np.ones((1, 3), dtype=np.int64), "."),
        (signature.INPUT_IDS, np.full((1, 4), 301, dtype=np.int64), "out of data bounds|indices"),
        (signature.USER_IDS, np.full((1, 1), 99, dtype=np.int64), "out of data bounds|indices"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_and_the_server_goes_on(served, backend, direct, name, value, words):
    feeds = prefill_feeds(tokens([4]))
    with pytest.raises(InferenceServerException, match=words) as refusal:
        send(served, feeds | {name: value})
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert_serves(backend, direct)


def test_a_missing_input_is_refused_and_the_server_goes_on(served, backend, direct):
    feeds = prefill_feeds(tokens([4]))
    del feeds[signature.LENGTHS]
    with pytest.raises(InferenceServerException, match="inputs"):
        send(served, feeds)
    assert_serves(backend, direct)


def test_a_bad_request_does_not_fail_those_it_was_batched_with(served, backend, direct):
    good, bad = tokens([4], num_excluded=4), prefill_feeds(tokens([4], num_excluded=4))
    bad[signature.INPUT_IDS] = np.full((1, 4), 5000, dtype=np.int64)
    expected, outcomes, together = direct.prefill(good).interest, [], threading.Barrier(16)

    def ask(number):
        feeds = bad if number % 4 == 0 else prefill_feeds(good)
        for _ in range(10):
            together.wait()
            try:
                outcomes.append((number % 4 == 0, send(served, feeds).as_numpy(signature.INTEREST)))
            except InferenceServerException as error:
                outcomes.append((number % 4 == 0, error))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))
    assert len(outcomes) == 160
    for is_bad, outcome in outcomes:
        assert isinstance(outcome, InferenceServerException) == is_bad
        if not is_bad:
            np.testing.assert_allclose(outcome, expected, atol=TOLERANCE)
    assert_serves(backend, direct)


def test_our_own_checks_come_before_the_network(served):
    with connect(served, url="127.0.0.1:1") as nowhere, pytest.raises(RequestError, match="item_rows"):
        nowhere.prefill(tokens([4], num_items=5000))


def test_a_version_that_is_not_served_names_model_version_and_what_there_is(served):
    with connect(served, version="3") as other:
        words = rf"prefill, decode, interests_2 in version 3.*prefill {VERSION}"
        with pytest.raises(ModelUnavailableError, match=words):
            other.check_ready()
        with pytest.raises(ModelUnavailableError, match="prefill version 3"):
            other.prefill(tokens([4]))


def test_a_model_that_is_not_served_is_named(served):
    with connect(served, fused=(2, 6)) as other:
        with pytest.raises(ModelUnavailableError, match=f"does not serve interests_6 in version {VERSION}"):
            other.check_ready()
        with pytest.raises(ModelUnavailableError, match="interests_6"):
            other.interests(tokens([4]), 6)


def test_no_server_says_how_to_start_one(served):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{free.getsockname()[1]}"
        words = f"{url}.*tritonserver --model-repository triton_models"
        with connect(served, url=url) as nowhere:
            for call in (nowhere.check_ready, nowhere.statistics, lambda: nowhere.prefill(tokens([4]))):
                with pytest.raises(ServerUnavailableError, match=words):
                    call()


def test_a_server_that_never_answers_meets_the_deadline(served):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        with connect(served, url=url, timeout_s=0.3) as waiting, pytest.raises(ServerTimeoutError, match="timeout_s"):
            waiting.prefill(tokens([4]))


def test_closing_twice_is_harmless(served):
    with connect(served) as backend:
        backend.close()
        with pytest.raises(ServerUnavailableError, match="was closed"):
            backend.prefill(tokens([4]))
