"""Exported files refuse by themselves what no caller may mean, whoever runs them, and whatever the model is."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

from recgpt import signature

WINDOW, NUM_ITEMS, NUM_USERS = 12, 200, 10
WIDTH = 4


def feeds_of(session, width=WIDTH):
    """A right request of two rows to any graph; two tokens are cached where a graph takes a cache."""
    feeds = {
        signature.USER_IDS: np.array([[3], [0]]),
        signature.INPUT_IDS: np.tile(np.arange(1, width + 1), (2, 1)),
        signature.SEGMENT_IDS: np.zeros((2, width), dtype=np.int64),
        signature.LENGTHS: np.array([[2], [1]]),
        signature.EXCLUDED_IDS: np.array([[7], [0]]),
    }
    for node in session.get_inputs():
        if node.name == signature.PAST_KEY_VALUES:
            sizes = {0: 2, 4: 2}
            shape = [sizes.get(axis, size) for axis, size in enumerate(node.shape)]
            feeds[node.name] = np.zeros(shape, dtype=np.float32)
        if node.name == signature.QUOTAS:
            feeds[node.name] = np.ones((2, node.shape[1]), dtype=np.int64)
    return feeds


@pytest.fixture
def open_graph(exported):
    def opened(name):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it prints each refusal
        path = exported.folder / f"{name}.onnx"
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    return opened


@pytest.fixture(params=["prefill", "decode", "interests_1", "interests_3", "recall_1", "recall_3"])
def session(open_graph, request):
    return open_graph(request.param)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (signature.USER_IDS, [-1, -(NUM_USERS + 1), -(2**63), NUM_USERS + 1, 2**63 - 1]),
        (signature.INPUT_IDS, [-1, -(NUM_ITEMS + 1), -(2**63), NUM_ITEMS + 1, 2**63 - 1]),
        (signature.SEGMENT_IDS, [-1, -2, -(2**63), 2, 2**63 - 1]),
        (signature.LENGTHS, [-1, -WIDTH, -(2**63), WIDTH + 1, WINDOW + 1, 2**63 - 1]),
        (signature.EXCLUDED_IDS, [-1, -(NUM_ITEMS + 1), -(2**63), 300, 2**63 - 1]),
    ],
)
def test_numbers_out_of_range_are_refused(session, name, values):
    feeds = feeds_of(session)
    session.run(None, feeds)
    if name == signature.EXCLUDED_IDS and [node.name for node in session.get_outputs()] == [signature.INTERESTS]:
        pytest.skip("nothing is generated, so nothing is excluded")
    for value in values:
        wrong = feeds[name].copy()
        wrong[0, 0] = value
        with pytest.raises((Fail, InvalidArgument)):
            session.run(None, feeds | {name: wrong})


@pytest.mark.parametrize("quota", [-1, -(2**63), 2**32, 2**62, 2**63 - 1])
@pytest.mark.parametrize("num_interests", [1, 3])
def test_impossible_quotas_are_refused(open_graph, num_interests, quota):
    session = open_graph(f"recall_{num_interests}")
    feeds = feeds_of(session)
    session.run(None, feeds)
    feeds[signature.QUOTAS][1, -1] = quota
    with pytest.raises((Fail, InvalidArgument)):
        session.run(None, feeds)


def test_a_history_without_a_token_is_refused_and_a_cache_without_one_is_not(session):
    feeds = feeds_of(session)
    nothing = feeds | {signature.LENGTHS: np.zeros((2, 1), dtype=np.int64)}
    if signature.PAST_KEY_VALUES in feeds:
        assert np.isfinite(session.run([signature.INTEREST], nothing)[0]).all()
    else:
        with pytest.raises((Fail, InvalidArgument)):
            session.run(None, nothing)


@pytest.mark.parametrize("width", [WINDOW + 1, 100, 100_000])
def test_a_width_beyond_the_window_is_refused_before_it_costs_its_square(session, width):
    # 100,000 tokens would take 80 GB of distances alone.
    with pytest.raises((Fail, InvalidArgument)):
        session.run(None, feeds_of(session, width))
