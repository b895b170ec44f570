"""What is ONNX Runtime's own: loading, and what may be wrong with a file or a machine."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from recgpt.backends.base import Tokens
from recgpt.backends.eager import model_spec
from recgpt.backends.lengths import RunCost, rows_of, run_in_parts
from recgpt.backends.onnxruntime import CPU, CUDA, OnnxRuntimeBackend
from recgpt.errors import BundleError, BundleMismatchError, ConfigError

NAMES = ("prefill", "decode", "interests_3")


@pytest.fixture
def graphs(exported):
    return {name: exported.folder / f"{name}.onnx" for name in NAMES}


@pytest.fixture
def spec(exported):
    return model_spec(exported.decoder)


@pytest.fixture
def tokens():
    ones = np.ones((2, 3), dtype=np.int64)
    return Tokens(user_rows=ones[:, 0], item_rows=ones, segments=ones, lengths=ones[:, 0], excluded=ones)


def test_it_tells_which_provider_runs(graphs, spec):
    assert OnnxRuntimeBackend(graphs, spec, providers=[CPU]).provider == CPU


def test_the_number_of_threads_does_not_change_the_answer(graphs, spec, tokens):
    one = OnnxRuntimeBackend(graphs, spec, num_threads=1).prefill(tokens)
    two = OnnxRuntimeBackend(graphs, spec, num_threads=2).prefill(tokens)
    np.testing.assert_allclose(one.interest, two.interest, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(one.next_rows, two.next_rows)


def mixed_tokens() -> Tokens:
    lengths = np.array([1, 10, 3, 8, 9, 2])
    generator = np.random.default_rng(0)
    real = np.arange(10) < lengths[:, None]
    return Tokens(
        user_rows=generator.integers(0, 10, len(lengths)),
        item_rows=generator.integers(1, 200, real.shape) * real,
        segments=generator.integers(0, 2, real.shape) * real,
        lengths=lengths,
        excluded=generator.integers(0, 200, (len(lengths), 4)),
    )


@pytest.mark.parametrize("call_ns", [0, 1e9], ids=["in_parts", "whole"])
def test_different_lengths_together_are_as_each_alone(graphs, spec, call_ns):
    mixed, backend = mixed_tokens(), OnnxRuntimeBackend(graphs, spec, num_threads=1)
    found = run_in_parts(lambda part, places: backend.interests(part, 3), mixed, RunCost(call_ns=call_ns, token_ns=1.0))
    for place in range(len(mixed)):
        alone = backend.interests(rows_of(mixed, np.array([place])), 3)
        np.testing.assert_allclose(found.interests[place], alone.interests[0], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found.generated_rows[place], alone.generated_rows[0])
    own = backend.interests(mixed, 3)
    np.testing.assert_allclose(own.interests, found.interests, rtol=0, atol=1e-5)
    assert backend.costs[3].call_ns > 0


@pytest.mark.parametrize("call_ns", [0, 1e9], ids=["in_parts", "whole"])
def test_so_are_their_recalled_lists_each_by_quotas_of_its_own(exported, graphs, spec, call_ns):
    graphs |= {"recall_3": exported.folder / "recall_3.onnx"}
    mixed, backend = mixed_tokens(), OnnxRuntimeBackend(graphs, spec, num_threads=1)
    quotas = np.array([[4, 2, 1], [1, 0, 5], [2, 2, 2], [0, 0, 1], [7, 1, 1], [3, 3, 0]])
    cost = RunCost(call_ns=call_ns, token_ns=1.0)
    several = [
        run_in_parts(lambda part, places: backend.recall(part, quotas[places]), mixed, cost),
        backend.recall(mixed, quotas),
    ]
    for place in range(len(mixed)):
        alone = backend.recall(rows_of(mixed, np.array([place])), quotas[[place]])
        for found in several:
            np.testing.assert_array_equal(found.rows[place], alone.rows[0])
            np.testing.assert_array_equal(found.steps[place], alone.steps[0])
            np.testing.assert_array_equal(found.generated_rows[place], alone.generated_rows[0])
            np.testing.assert_allclose(found.scores[place], alone.scores[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_threads", [0, -1])
def test_a_wrong_number_of_threads_is_refused(graphs, spec, num_threads):
    with pytest.raises(ConfigError, match="num_threads"):
        OnnxRuntimeBackend(graphs, spec, num_threads=num_threads)


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="CUDA can be had here")
def test_cuda_that_cannot_be_had_is_an_error(graphs, spec):
    with pytest.raises(ConfigError, match="CUDAExecutionProvider"):
        OnnxRuntimeBackend(graphs, spec, providers=[CUDA, CPU])


@pytest.mark.parametrize("providers", [[], ["NoSuchProvider"]])
def test_unknown_providers_are_refused(graphs, spec, providers):
    with pytest.raises(ConfigError, match="providers"):
        OnnxRuntimeBackend(graphs, spec, providers=providers)


@pytest.mark.parametrize("name", ["prefill", "decode"])
def test_a_graph_that_is_not_there_is_named(graphs, spec, tmp_path, name):
    with pytest.raises(BundleError, match=f"{name} missing"):
        OnnxRuntimeBackend({other: path for other, path in graphs.items() if other != name}, spec)
    with pytest.raises(BundleError, match=r"gone\.onnx"):
        OnnxRuntimeBackend({**graphs, name: tmp_path / "gone.onnx"}, spec)


def test_a_name_that_is_no_graph_is_refused(graphs, spec):
    with pytest.raises(BundleError, match="interests_x"):
        OnnxRuntimeBackend({**graphs, "interests_x": graphs["interests_3"]}, spec)


def test_a_damaged_file_is_named(graphs, spec, tmp_path):
    damaged = tmp_path / "prefill.onnx"
    damaged.write_bytes(graphs["prefill"].read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"prefill\.onnx"):
        OnnxRuntimeBackend({**graphs, "prefill": damaged}, spec)


@pytest.mark.parametrize("name", ["num_blocks", "num_heads", "hidden_size"])
def test_a_file_of_other_sizes_is_refused(graphs, spec, name):
    with pytest.raises(BundleError, match="export again"):
        OnnxRuntimeBackend(graphs, replace(spec, **{name: getattr(spec, name) * 2}))


@pytest.mark.parametrize("shape", [(200, 16), (201, 8), (201,)])
def test_an_item_matrix_of_another_shape_is_refused(graphs, spec, shape):
    with pytest.raises(BundleMismatchError, match=r"item_matrix.*\(201, 16\)"):
        OnnxRuntimeBackend(graphs, spec, providers=[CPU], item_matrix=np.zeros(shape, dtype=np.float32))


def test_no_session_keeps_the_bytes_of_its_file(graphs, spec):
    for session in OnnxRuntimeBackend(graphs, spec, providers=[CPU])._sessions.values():
        assert session.get_providers() == [CPU]
        assert not [name for name, value in vars(session).items() if isinstance(value, bytes)]


def test_a_graph_with_other_tensors_is_refused(graphs, spec, tmp_path):
    with pytest.raises(BundleError, match="inputs"):
        OnnxRuntimeBackend({**graphs, "decode": graphs["prefill"]}, spec)
    model = onnx.load(graphs["prefill"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, tmp_path / "prefill.onnx")
    with pytest.raises(BundleError, match="user_ids"):
        OnnxRuntimeBackend({**graphs, "prefill": tmp_path / "prefill.onnx"}, spec)


def test_a_closed_backend_says_so(graphs, spec, tokens):
    backend = OnnxRuntimeBackend(graphs, spec)
    backend.close()
    backend.close()
    with pytest.raises(BundleError, match="closed"):
        backend.prefill(tokens)


def test_the_files_may_go_once_they_are_loaded(graphs, spec, tokens, tmp_path):
    copies = {name: shutil.copy(path, tmp_path) for name, path in graphs.items()}
    backend = OnnxRuntimeBackend(copies, spec)
    shutil.rmtree(tmp_path)
    assert backend.prefill(tokens).interest.shape == (2, spec.hidden_size)
