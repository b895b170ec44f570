"""``config.pbtxt`` against the signature, as Triton reads the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from recgpt.config import ModelConfig
from recgpt.serving.repository import BOUNDED, CONFIG, MAX_BATCH_SIZE, engine_configs, model_config, model_configs
from recgpt.signature import MAX_RECALLED, graph_spec, recall_engine_spec

REPOSITORY = Path(__file__).parents[2] / "triton_models"
GRAPHS = ("prefill", "decode", "interests_1", "interests_2", "interests_6", "recall_1", "recall_2")
DTYPES = {"int64": "TYPE_INT64", "float32": "TYPE_FP32"}
DEFAULT = ModelConfig()
DEFAULT_SIZES = {
    "L": DEFAULT.num_blocks,
    "H": DEFAULT.num_heads,
    "Dh": DEFAULT.hidden_size // DEFAULT.num_heads,
    "D": DEFAULT.hidden_size,
    "K": MAX_RECALLED,
}


def parsed(text):
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("name", GRAPHS)
def test_every_tensor_has_the_name_type_and_axes_of_the_signature(name):
    config, graph = parsed(model_config(graph_spec(name), {"D": 24})), graph_spec(name)
    for found, expected in ((config.input, graph.inputs), (config.output, graph.outputs)):
        assert [tensor.name for tensor in found] == [tensor.name for tensor in expected]
        for tensor, spec in zip(found, expected, strict=True):
            assert model_config_pb2.DataType.Name(tensor.data_type) == DTYPES[spec.dtype]
            dims = [axis if isinstance(axis, int) else {"D": 24}.get(axis, -1) for axis in spec.axes]
            assert spec.axes[0] == "B"
            assert list(tensor.dims) == dims[1:]


@pytest.mark.parametrize("name", GRAPHS)
def test_settings_are_those_of_the_native_backend(name):
    config = parsed(model_config(graph_spec(name), {}))
    assert (config.name, config.backend, config.max_batch_size) == (name, "onnxruntime", MAX_BATCH_SIZE)
    assert config.HasField("dynamic_batching")
    # A bound on the queue makes Triton leave requests for half a second, see recgpt.serving.repository.
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert config.version_policy.HasField("all")
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_AUTO]
    assert set(config.parameters) == {"intra_op_thread_count"}


@pytest.mark.parametrize("name", GRAPHS)
def test_the_files_in_the_repository_are_the_generated_ones_of_the_default_model(name):
    found = {file: (REPOSITORY / name / file).read_text() for file in (CONFIG, BOUNDED)}
    assert found == model_configs(graph_spec(name), DEFAULT_SIZES)


def test_the_repository_holds_models_only():
    assert {path.name for path in REPOSITORY.iterdir() if path.is_dir()} == {*GRAPHS, "recall_engine"}


def test_the_engines_settings_let_requests_of_different_shapes_run_together() -> None:
    spec = recall_engine_spec("int64", "string")
    config = parsed(engine_configs(spec)[CONFIG])
    assert (config.name, config.backend, config.max_batch_size) == ("recall_engine", "python", MAX_BATCH_SIZE)
    assert config.HasField("dynamic_batching")
    assert config.version_policy.HasField("all")
    for found, expected in ((config.input, spec.inputs), (config.output, spec.outputs)):
        assert [tensor.name for tensor in found] == [tensor.name for tensor in expected]
        for tensor, one in zip(found, expected, strict=True):
            assert list(tensor.dims) == [axis if isinstance(axis, int) else -1 for axis in one.axes[1:]]
    assert [tensor.allow_ragged_batch for tensor in config.input] == [-1 in tensor.dims for tensor in config.input]
    assert [tensor.optional for tensor in config.input] == [tensor.optional for tensor in spec.inputs]
    types = {tensor.name: model_config_pb2.DataType.Name(tensor.data_type) for tensor in config.input}
    assert (types["history"], types["user_id"], types["filter_seen"]) == ("TYPE_INT64", "TYPE_STRING", "TYPE_BOOL")
    default = engine_configs(recall_engine_spec("int64", "int64"))
    assert {file: (REPOSITORY / "recall_engine" / file).read_text() for file in default} == default
