from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_model import Export, random_requests

from recgpt.backends.eager import EagerBackend
from recgpt.bundle import Bundle, write_manifest
from recgpt.engine import Engine
from recgpt.errors import BundleCorruptError, BundleError, BundleMismatchError, ConfigError
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.fingerprint import fingerprint
from recgpt.recall.index import ItemIndex
from recgpt.recall.layout import LEAST_SHARE, Layout
from recgpt.recall.recaller import Recaller
from recgpt.types import Candidates, RecallRequest

# float32 sums in another order; scores are sums of 16 products of about 1.
SCORE_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def reference(export: Export) -> Recaller:
    """PyTorch that recomputes the whole sequence for each step, straight from the checkpoint."""
    checkpoint = export.checkpoint
    return Recaller(
        EagerBackend(checkpoint.decoder, fused=range(1, 7)),
        ItemIndex.build(checkpoint.decoder.item_matrix.detach().numpy()),
        Catalogue(item_ids=checkpoint.item_ids, user_ids=checkpoint.user_ids, popularity=checkpoint.popularity),
        prompt_tuned=True,
    )


def assert_same(found: Sequence[Candidates], expected: Sequence[Candidates]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.item_ids == other.item_ids
        assert one.steps.tolist() == other.steps.tolist()
        assert one.generated_ids == other.generated_ids
        assert one.cold_start == other.cold_start
        np.testing.assert_allclose(one.scores, other.scores, atol=SCORE_TOLERANCE)


def test_graphs_and_index_use_one_item_matrix(export: Export) -> None:
    with Engine.load(export.bundle, num_threads=1) as engine:
        matrix = engine.index.item_matrix
        assert matrix is not None
        np.testing.assert_array_equal(matrix[1:], export.checkpoint.decoder.item_matrix.detach().numpy()[1:])
        request = RecallRequest(history=["i3", "i4"])
        before = fingerprint(engine.backend, engine.catalogue, request)
        matrix[3] = 7.0
        assert not np.allclose(fingerprint(engine.backend, engine.catalogue, request), before, atol=0.01)
        np.testing.assert_array_equal(engine.index.vectors()[2], matrix[3])


@pytest.mark.parametrize("layout", Layout)
def test_two_threads_share_a_call_out_and_recall_the_same(export: Export, engine: Engine, layout: Layout) -> None:
    requests, before = random_requests(3 * LEAST_SHARE), set(threading.enumerate())
    with Engine.load(export.bundle, num_threads=2, layout=layout) as shared:
        found = shared.recall_many(requests)
        assert any(thread.name.startswith("recgpt-share") for thread in set(threading.enumerate()) - before)
    assert_same(found, engine.recall_many(requests))


@pytest.mark.parametrize("num_threads", [0, -2])
def test_a_wrong_number_of_threads_is_refused(export: Export, num_threads: int) -> None:
    with pytest.raises(ConfigError, match="num_threads = .*: expected at least 1, or None"):
        Engine.load(export.bundle, num_threads=num_threads)


def test_the_engine_recalls_what_pytorch_recalls(engine: Engine, reference: Recaller) -> None:
    requests = random_requests(80)
    assert {len(request.quotas or ()) for request in requests} == {1, 2, 3, 4, 5, 6}
    assert_same(engine.recall_many(requests), reference.recall_many(requests))


def test_items_that_were_shown_and_not_clicked_are_read_and_stay_candidates(
    engine: Engine, reference: Recaller
) -> None:
    history, segments = ["i1", "i2", "i3"], [0, 1, 0]
    found = engine.recall(history, segments=segments, k=298, quotas=(298,))
    assert set(found.item_ids) == {f"i{row}" for row in range(1, 301)} - {"i1", "i3"}
    assert_same([found], [reference.recall(history, segments=segments, k=298, quotas=(298,))])
    clicked = engine.recall(history, k=297, quotas=(297,))
    assert not np.allclose(found.scores[:297], clicked.scores)


@pytest.mark.parametrize("layout", ["fused", "index", "graph"])
def test_every_layout_recalls_what_pytorch_recalls(layout: str, export: Export, reference: Recaller) -> None:
    requests = random_requests(60, seed=3)
    with Engine.load(export.bundle, num_threads=1, layout=layout) as chosen:
        assert_same(chosen.recall_many(requests), reference.recall_many(requests))


def test_one_by_one_gives_the_same_as_all_at_once(engine: Engine) -> None:
    requests = random_requests(30, seed=1)
    assert_same([engine.recall_many([request])[0] for request in requests], engine.recall_many(requests))


def test_the_fused_graph_gives_the_same_as_the_steps(engine: Engine, export: Export) -> None:
    requests = [request for request in random_requests(60, seed=2) if len(request.quotas or ()) == 2]
    stepwise = Recaller(_WithoutFused(engine), engine.index, engine.catalogue, prompt_tuned=True)
    assert_same(engine.recall_many(requests), stepwise.recall_many(requests))


class _WithoutFused:
    """The engine's own backend with the fused graphs out of sight."""

    def __init__(self, engine: Engine) -> None:
        self.spec = engine.backend.spec
        self.fused: frozenset[int] = frozenset()
        self.prefill, self.decode, self.interest = (
            engine.backend.prefill,
            engine.backend.decode,
            engine.backend.interest,
        )
        self.close = engine.backend.close
        self.interests = engine.backend.interests


def test_several_threads_may_share_an_engine(engine: Engine) -> None:
    requests = random_requests(64, seed=3)
    alone = [engine.recall_many([request])[0] for request in requests]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda request: engine.recall_many([request])[0], requests))
    assert_same(together, alone)


def test_the_default_is_two_steps_for_a_tuned_model(engine: Engine) -> None:
    candidates = engine.recall(["i1", "i2"], user_id=100)
    assert candidates.steps.tolist() == [1] * 9 + [2]
    # The generated item is the top of the first list: one matrix serves argmax and index.
    assert candidates.generated_ids == (candidates.item_ids[0],)


def test_it_can_be_loaded_by_a_string_and_closed_twice(export: Export) -> None:
    engine = Engine.load(str(export.bundle))
    engine.close()
    engine.close()
    with pytest.raises(BundleError, match="closed"):
        engine.recall(["i1"])


@pytest.fixture
def bundle(export: Export, tmp_path: Path) -> Path:
    return shutil.copytree(export.bundle, tmp_path / "bundle")


@pytest.mark.parametrize(
    "name", ["prefill.onnx", "decode.onnx", "interests_2.onnx", "item_index.faiss", "ids.json", "popularity.npy"]
)
def test_a_changed_file_is_refused_by_name(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleCorruptError, match=name):
        Engine.load(bundle)


def test_the_index_of_another_model_is_refused_even_with_a_manifest_made_for_it(bundle: Path) -> None:
    ItemIndex.build(np.zeros((301, 16), dtype=np.float32)).save(bundle / "item_index.faiss")
    write_manifest(bundle, Bundle.open(bundle).manifest)
    with pytest.raises(BundleMismatchError, match="other item vectors"):
        Engine.load(bundle)


def test_a_graph_that_is_no_graph_is_refused_even_with_a_manifest_made_for_it(bundle: Path) -> None:
    (bundle / "decode.onnx").write_bytes(b"no graph")
    write_manifest(bundle, Bundle.open(bundle).manifest)
    with pytest.raises(BundleError, match="decode.onnx"):
        Engine.load(bundle)


def test_no_bundle_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="export/to_onnx.py"):
        Engine.load(tmp_path / "nothing")
