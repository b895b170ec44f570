"""Engines that follow a store: every answer is wholly of one bundle, whatever is published meanwhile."""

from __future__ import annotations

import gc
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_model import Export, random_requests

from recgpt.backends.base import InterestsOutput, StepOutput, Tokens
from recgpt.bundle import Bundle, write_manifest
from recgpt.bundle_store import BundleStore
from recgpt.engine import Engine
from recgpt.errors import BundleCorruptError, BundleError, BundleMismatchError, ConfigError
from recgpt.live import LiveRecaller
from recgpt.publishing import Publisher
from recgpt.recall.recaller import Recaller
from recgpt.types import Candidates

NUM_THREADS, NUM_CALLS = 6, 1000  # of three requests each
WAIT_S = 30.0  # a busy machine is not what is tested here


def quiet(text: str) -> None:
    """Progress that nobody reads."""


def answer_of(candidates: list[Candidates]) -> tuple[object, ...]:
    return tuple((one.item_ids, one.generated_ids, tuple(one.scores.tolist())) for one in candidates)


@pytest.fixture
def store(export: Export, other_bundle: Path, tmp_path: Path) -> BundleStore:
    """Two versions; the first is current."""
    publisher = Publisher(tmp_path / "bundles", say=quiet)
    publisher.publish(export.bundle)
    publisher.publish(other_bundle)
    publisher.roll_back()
    return publisher.store


def test_thousands_of_calls_while_bundles_change_none_fails_none_mixed(store: BundleStore) -> None:
    first, second = store.versions()
    # Several requests a call, of one and of two interests, so that a call searches and merges more than once.
    batches = [random_requests(3, seed=seed) for seed in range(8)]
    allowed = []
    for batch in batches:
        both = set()
        for version in (first, second):
            with Engine.load(store.folder(version), num_threads=1) as engine:
                both.add(answer_of(engine.recall_many(batch)))
        allowed.append(both)
    assert all(len(both) == 2 for both in allowed)
    done = threading.Event()

    def call(engine: Engine, number: int) -> object:
        return answer_of(engine.recall_many(batches[number % len(batches)]))

    def switch(engine: Engine) -> int:
        switches = 0
        while not done.is_set():
            store.switch(second if switches % 2 == 0 else first)
            assert engine.reload()
            switches += 1
        return switches

    with Engine.load(store.path, num_threads=1) as engine, ThreadPoolExecutor(NUM_THREADS + 1) as pool:
        switching = pool.submit(switch, engine)
        try:
            found = list(pool.map(lambda number: call(engine, number), range(NUM_CALLS)))
        finally:
            done.set()
        switches = switching.result()
    assert switches >= 2
    for number, answer in enumerate(found):
        assert answer in allowed[number % len(batches)]
    assert len({answer for number, answer in enumerate(found) if number % len(batches) == 0}) == 2


class _Held:
    """A backend whose calls wait until they are let go."""

    def __init__(self, inner: Recaller) -> None:
        self._inner = inner.backend
        self.spec, self.fused = self._inner.spec, frozenset[int]()
        self.entered, self.go, self.closed = threading.Event(), threading.Event(), threading.Event()

    def prefill(self, tokens: Tokens) -> StepOutput:
        self.entered.set()
        assert self.go.wait(WAIT_S)
        assert not self.closed.is_set()
        return self._inner.prefill(tokens)

    def decode(self, tokens: Tokens, past: np.ndarray) -> StepOutput:
        return self._inner.decode(tokens, past)

    def interest(self, tokens: Tokens, past: np.ndarray | None = None) -> np.ndarray:
        return self._inner.interest(tokens, past)

    def interests(self, tokens: Tokens, num_interests: int) -> InterestsOutput:
        return self._inner.interests(tokens, num_interests)

    def close(self) -> None:
        self.closed.set()


def test_a_call_that_runs_ends_on_the_old_bundle_which_is_closed_only_then(store: BundleStore) -> None:
    opened: list[_Held] = []
    engines = [Engine.load(store.folder(version), num_threads=1) for version in store.versions()]

    def open_bundle(bundle: Bundle) -> Recaller:
        inner = next(engine for engine in engines if engine.bundle.manifest.version == bundle.manifest.version)
        opened.append(_Held(inner))
        return Recaller(opened[-1], inner.index, inner.catalogue, prompt_tuned=True)

    live = LiveRecaller(store.path, open_bundle)
    old = engines[0].recall(["i1", "i2"], k=5)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(live.recall, ["i1", "i2"], k=5)
        assert opened[0].entered.wait(WAIT_S)
        store.switch(store.versions()[1])
        assert live.reload()
        assert live.bundle.manifest.version == store.versions()[1]
        assert not opened[0].closed.is_set()
        opened[0].go.set()
        assert running.result().item_ids == old.item_ids
        del running
    gc.collect()
    assert opened[0].closed.wait(WAIT_S)
    assert not opened[1].closed.is_set()
    live.close()
    assert opened[1].closed.is_set()
    for engine in engines:
        engine.close()


def test_nothing_new_is_no_reload(store: BundleStore) -> None:
    with Engine.load(store.path, num_threads=1) as engine:
        backend = engine.backend
        assert not engine.reload()
        assert engine.backend is backend


def test_a_damaged_new_bundle_leaves_the_old_one_at_work(store: BundleStore) -> None:
    with Engine.load(store.path, num_threads=1) as engine:
        before = answer_of(engine.recall_many(random_requests(3)))
        second = store.versions()[1]
        (store.folder(second) / "decode.onnx").write_bytes(b"no graph")
        store.switch(second)
        with pytest.raises(BundleCorruptError, match="decode.onnx"):
            engine.reload()
        assert answer_of(engine.recall_many(random_requests(3))) == before


def test_an_engine_that_follows_changes_over_by_itself(store: BundleStore, caplog: pytest.LogCaptureFixture) -> None:
    first, second = store.versions()
    with Engine.load(store.path, num_threads=1, follow_s=0.02) as engine:
        (store.folder(second) / "decode.onnx").rename(store.folder(second) / "away")
        store.switch(second)
        deadline = time.monotonic() + WAIT_S
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        assert f"recall goes on with version {first}" in caplog.text
        (store.folder(second) / "away").rename(store.folder(second) / "decode.onnx")
        while engine.bundle.manifest.version != second and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.bundle.manifest.version == second
        assert len(engine.recall(["i1"])) == 10


def test_a_closed_engine_does_not_come_back(store: BundleStore) -> None:
    engine = Engine.load(store.path, num_threads=1)
    engine.close()
    with pytest.raises(BundleError, match="closed"):
        engine.reload()


def test_following_needs_a_time(store: BundleStore) -> None:
    with pytest.raises(ConfigError, match="follow_s = 0"):
        Engine.load(store.path, follow_s=0)


def test_an_engine_refuses_graphs_that_answer_otherwise_than_the_export(
    export: Export, other_bundle: Path, tmp_path: Path
) -> None:
    """Files with right hashes, sizes and item vectors, but another training's graphs."""
    mixed = tmp_path / "mixed"
    bundle = Bundle.open(other_bundle)
    bundle.copy_to(mixed)
    for name in ("prefill.onnx", "decode.onnx", "interests_2.onnx"):
        shutil.copyfile(export.bundle / name, mixed / name)
    write_manifest(mixed, bundle.manifest)
    with pytest.raises(BundleMismatchError, match="another model"):
        Engine.load(mixed)
