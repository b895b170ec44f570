from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_model import Export, Served, bundle_copy, random_checkpoint, random_requests

from recgpt import RecallClient
from recgpt.bundle import Bundle
from recgpt.engine import Engine
from recgpt.errors import (
    BundleCorruptError,
    BundleError,
    BundleMismatchError,
    ModelUnavailableError,
    ServerUnavailableError,
    ShortfallError,
)
from recgpt.graphs.export import TORCHSCRIPT, export_bundle
from recgpt.serving.repository import model_versions
from recgpt.types import Candidates

# The same graphs in the same library, batched or padded otherwise; scores are sums of 16 products of about 1.
SCORE_TOLERANCE = 1e-4
TIMEOUT_S = 20.0  # a busy machine is not what is tested here


@pytest.fixture(scope="module")
def version(served: Served) -> int:
    """Of the models on the server; another than that of the bundle they are from."""
    return model_versions(served.repository / "prefill")[0]


@pytest.fixture(scope="module")
def bundle(served_bundle: Path) -> Path:
    return served_bundle


@pytest.fixture(scope="module")
def client(served: Served, bundle: Path) -> Iterator[RecallClient]:
    with RecallClient(served.server.url, bundle=bundle, timeout_s=TIMEOUT_S) as client:
        yield client


def assert_same(found: list[Candidates], expected: list[Candidates]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.item_ids == other.item_ids
        assert one.steps.tolist() == other.steps.tolist()
        assert one.generated_ids == other.generated_ids
        assert one.cold_start == other.cold_start
        np.testing.assert_allclose(one.scores, other.scores, atol=SCORE_TOLERANCE)


def test_the_client_recalls_what_the_engine_recalls(client: RecallClient, engine: Engine) -> None:
    requests = random_requests(60, seed=10)
    assert_same(client.recall_many(requests), engine.recall_many(requests))


def test_requests_of_many_threads_that_the_server_batches_get_the_same_answers(
    client: RecallClient, engine: Engine
) -> None:
    requests = random_requests(40, seed=11)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda request: client.recall_many([request])[0], requests))
    assert_same(found, engine.recall_many(requests))


def test_one_call_has_the_engines_arguments_and_timings(client: RecallClient, engine: Engine) -> None:
    arguments = {"user_id": 300, "segments": [0, 1, 0], "k": 6, "quotas": [4, 2], "filter_seen": False}
    found = client.recall(["i5", "i7", "i5"], **arguments)  # type: ignore[arg-type]
    assert_same([found], [engine.recall(["i5", "i7", "i5"], **arguments)])  # type: ignore[arg-type]
    assert found.timings.interests_ns > 0


def test_the_command_prints_what_the_client_recalls(client: RecallClient, served: Served, bundle: Path) -> None:
    recgpt = str(Path(sys.executable).with_name("recgpt"))
    command = [recgpt, "recall", "--url", served.server.url, "--bundle", str(bundle), "--user", "300"]
    result = subprocess.run([*command, "--history", "i12", "i99", "i7"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if "interest" in line]
    expected = client.recall(["i12", "i99", "i7"], user_id=300)
    assert [row[1] for row in rows] == list(expected.item_ids)


def test_cold_start_needs_no_model(client: RecallClient) -> None:
    candidates = client.recall([], k=5)
    assert candidates.cold_start.popular
    assert candidates.steps.tolist() == [0] * 5


def test_the_catalogues_limits_are_the_engines(client: RecallClient) -> None:
    with pytest.raises(ShortfallError) as caught:
        client.recall(["i1"], k=300)
    assert caught.value.available == 299


def test_no_server_is_said_at_once(bundle: Path) -> None:
    with socket.socket() as held:  # bound and not listening: nobody answers, and nobody else can
        held.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ServerUnavailableError, match=url):
            RecallClient(url, bundle=bundle)


def test_a_server_with_another_version_is_refused(served: Served, version: int, export: Export) -> None:
    wanted = Bundle.open(export.bundle).manifest.version
    with pytest.raises(ModelUnavailableError, match=f"version {wanted}.*{version}"):
        RecallClient(served.server.url, bundle=export.bundle, timeout_s=TIMEOUT_S)


def test_a_server_without_a_model_of_the_bundle_is_refused(
    served: Served, version: int, export: Export, tmp_path: Path
) -> None:
    more = bundle_copy(export.bundle, tmp_path / "bundle", version=version, num_interests=(2, 5))
    with pytest.raises(ModelUnavailableError, match="does not serve interests_5"):
        RecallClient(served.server.url, bundle=more, timeout_s=TIMEOUT_S)


def test_a_server_with_another_model_of_the_same_sizes_and_version_is_refused(
    served: Served, version: int, tmp_path: Path
) -> None:
    export_bundle(random_checkpoint(seed=1), tmp_path / "other", TORCHSCRIPT, num_interests=(2,), say=lambda text: None)
    other = bundle_copy(tmp_path / "other", tmp_path / "bundle", version=version)
    with pytest.raises(BundleMismatchError, match="another model"):
        RecallClient(served.server.url, bundle=other, timeout_s=TIMEOUT_S)


def test_a_damaged_bundle_is_refused_before_the_server_is_asked(bundle: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "bundle")
    (damaged / "ids.json").write_text("{}")
    with pytest.raises(BundleCorruptError, match="ids.json"):
        RecallClient("127.0.0.1:1", bundle=damaged)
    with pytest.raises(BundleError, match="export/to_onnx.py"):
        RecallClient("127.0.0.1:1", bundle=tmp_path / "nothing")
