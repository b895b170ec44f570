"""The exported files themselves."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from recgpt.backends.eager import model_spec
from recgpt.backends.torchscript import TorchScriptBackend
from recgpt.config import ModelConfig
from recgpt.errors import BundleError, ExportError, OutputError
from recgpt.graphs.modules import SCORE_BLOCK, Interests, Prefill
from recgpt.graphs.onnx_writer import Precision, write_onnx
from recgpt.graphs.torchscript_writer import load_torchscript, write_torchscript
from recgpt.model.decoder import Decoder
from recgpt.signature import PREFILL, graph_spec

GRAPHS = ("prefill", "decode", "interests_1", "interests_3", "recall_1", "recall_3")

# What ONNX Runtime 1.27, the one inside current Triton, loads.
MAX_OPSET, MAX_IR_VERSION = 21, 11

CONTROL_FLOW = {"Loop", "If", "Scan", "SequenceMap"}

# Room for nodes and names beside the weights: a weight matrix stored twice would take more.
GRAPH_BYTES_PER_NODE = 300


@pytest.fixture(params=GRAPHS)
def name(request):
    return request.param


@pytest.fixture
def model(exported, name):
    return onnx.load(exported.folder / f"{name}.onnx")


@pytest.fixture
def small_decoder():
    config = ModelConfig(max_length=4, hidden_size=4, num_blocks=1, num_heads=2, ffn_size=4)
    return Decoder(config, num_items=5, num_users=1)


def shape_of(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_names_types_and_axes_are_those_of_the_signature(exported, model, name):
    spec, sizes = graph_spec(name), model_spec(exported.decoder)
    fixed = {"L": sizes.num_blocks, "H": sizes.num_heads, "Dh": sizes.head_size, "D": sizes.hidden_size, "K": 12}
    types = {"int64": onnx.TensorProto.INT64, "float32": onnx.TensorProto.FLOAT}
    for tensors, values in ((spec.inputs, model.graph.input), (spec.outputs, model.graph.output)):
        assert [value.name for value in values] == [tensor.name for tensor in tensors]
        for tensor, value in zip(tensors, values, strict=True):
            assert value.type.tensor_type.elem_type == types[tensor.dtype]
            expected = [fixed.get(axis, axis) for axis in tensor.axes]
            found = shape_of(value)
            # A sum of two axes is named by the exporter, in an order of its own.
            assert ["P+S" if set("PS") <= set(str(axis)) else axis for axis in found] == expected


def test_onnx_runtime_of_current_triton_can_load_it(model):
    assert [(opset.domain, opset.version <= MAX_OPSET) for opset in model.opset_import] == [("", True)]
    assert model.ir_version <= MAX_IR_VERSION
    assert not model.functions


def test_it_has_no_control_flow_and_no_subgraphs(model):
    assert not {node.op_type for node in model.graph.node} & CONTROL_FLOW
    assert not [node for node in model.graph.node for attribute in node.attribute if attribute.HasField("g")]


def test_every_weight_is_stored_once_and_inside(exported, model, name):
    decoder, config = exported.decoder, exported.decoder.config
    shapes = [tuple(tensor.dims) for tensor in model.graph.initializer]
    # One interest is asked of the input table alone: nothing is generated.
    is_input_alone = decoder.output is None or name == "interests_1"
    tables = [shape for shape in shapes if math.prod(shape) == decoder.item_matrix.numel()]
    assert len(tables) == (1 if is_input_alone else 2)
    assert not any(tensor.HasField("data_location") and tensor.data_location for tensor in model.graph.initializer)
    file_bytes = (exported.folder / f"{name}.onnx").stat().st_size
    weights = sum(parameter.numel() for parameter in decoder.parameters())
    folded = 2 * (config.num_heads * config.hidden_size + config.max_length) * config.hidden_size
    # In 8 bits and filled up to whole blocks, and the columns that were filled up, in 64 bits.
    scanned = (len(decoder.item_matrix) + SCORE_BLOCK) * config.hidden_size + 8 * SCORE_BLOCK
    assert 4 * sum(map(math.prod, tables)) <= file_bytes
    assert file_bytes <= 4 * (weights + folded) + scanned + GRAPH_BYTES_PER_NODE * len(model.graph.node)
    assert not list(exported.folder.glob("*.data"))


def test_it_carries_the_metadata_and_nothing_of_the_machine(model):
    assert {entry.key: entry.value for entry in model.metadata_props} == {"made_by": "the contract suite"}
    assert not [node for node in model.graph.node if node.metadata_props or node.doc_string]


def test_the_checker_accepts_it(exported, name):
    onnx.checker.check_model(exported.folder / f"{name}.onnx", full_check=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(small_decoder, tmp_path, value):
    with torch.no_grad():
        small_decoder.blocks[0].ffn_input.weight[1, 2] = value
    for write in (lambda g, p: write_onnx(g, p, metadata={}), write_torchscript):
        with pytest.raises(ExportError, match=r"blocks\.0\.ffn_input\.weight"):
            write(Prefill(small_decoder), tmp_path / "graph")
    assert not list(tmp_path.iterdir())


def test_writing_leaves_the_decoder_as_it_was(small_decoder, tmp_path):
    small_decoder.train()
    before = {name: tensor.clone() for name, tensor in small_decoder.state_dict().items()}
    write_torchscript(Prefill(small_decoder), tmp_path / "prefill.pt")
    assert small_decoder.training
    assert all(torch.equal(before[name], tensor) for name, tensor in small_decoder.state_dict().items())


def test_a_scan_of_exact_scores_gives_what_pytorch_gives(exported, tmp_path):
    decoder = exported.decoder
    write_onnx(Interests(decoder, 2), tmp_path / "interests_2.onnx", metadata={}, precision=Precision.FLOAT32)
    session = onnxruntime.InferenceSession(tmp_path / "interests_2.onnx", providers=["CPUExecutionProvider"])
    assert "MatMulInteger" not in {node.op_type for node in onnx.load(tmp_path / "interests_2.onnx").graph.node}
    generator = np.random.default_rng(0)
    rows = generator.integers(1, decoder.num_items + 1, (20, 6))
    feeds = [rows[:, :1] % 10, rows, rows % 2, np.full((20, 1), 6), rows]
    _, generated = session.run(None, {tensor.name: array for tensor, array in zip(PREFILL.inputs, feeds, strict=True)})
    with torch.no_grad():
        hidden = decoder(*(torch.from_numpy(array) for array in (feeds[0][:, 0], *feeds[1:3])))[:, -1]
        scores = (hidden @ decoder.item_matrix.T).numpy()
    scores[:, 0] = -np.inf
    np.put_along_axis(scores, rows, -np.inf, axis=1)
    np.testing.assert_array_equal(generated[:, 0], scores.argmax(axis=1))


@pytest.mark.parametrize("tied", [True, False])
def test_half_tables_are_half_as_large_and_compute_in_float32(tmp_path, tied):
    sizes = {"max_length": 8, "hidden_size": 16, "num_blocks": 1, "num_heads": 2, "ffn_size": 16}
    config = ModelConfig(similarity="inner_product", tied=tied, **sizes)
    torch.manual_seed(0)
    decoder = Decoder(config, num_items=2_000, num_users=500).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    for precision in (Precision.FLOAT32, Precision.FLOAT16):
        write_onnx(Interests(decoder, 2), tmp_path / f"{precision}.onnx", metadata={}, precision=precision)
    num_bytes = [(tmp_path / f"{precision}.onnx").stat().st_size for precision in ("float32", "float16")]
    tables = [decoder.item_embedding, decoder.user_embedding, *([] if tied else [decoder.output])]
    saved = sum(table.weight.numel() * 2 for table in tables)
    assert num_bytes[0] - num_bytes[1] == pytest.approx(saved, rel=0.02)
    # With weights that float16 holds, PyTorch's answer is the answer up to float32's rounding.
    with torch.no_grad():
        for table in tables:
            table.weight.copy_(table.weight.half().float())
    session = onnxruntime.InferenceSession(tmp_path / "float16.onnx", providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    rows = generator.integers(1, 2_001, (20, 6))
    feeds = [rows[:, :1] % 500, rows, rows % 2, np.full((20, 1), 6), rows]
    interests, generated = session.run(
        None, {tensor.name: array for tensor, array in zip(PREFILL.inputs, feeds, strict=True)}
    )
    with torch.no_grad():
        first = decoder(*(torch.from_numpy(array) for array in (feeds[0][:, 0], *feeds[1:3])))[:, -1]
        scores = (first @ decoder.item_matrix.T).numpy()
    np.testing.assert_allclose(interests[:, 0], first.numpy(), rtol=0, atol=1e-5)
    scores[:, 0] = -np.inf
    np.put_along_axis(scores, rows, -np.inf, axis=1)
    np.testing.assert_array_equal(generated[:, 0], scores.argmax(axis=1))


@pytest.mark.parametrize("precision", list(Precision))
def test_what_one_file_has_no_room_for_is_refused_before_it_is_exported(tmp_path, monkeypatch, precision):
    sizes = {"max_length": 8, "hidden_size": 16, "num_blocks": 1, "num_heads": 2, "ffn_size": 16}
    decoder = Decoder(ModelConfig(similarity="inner_product", **sizes), num_items=5_000, num_users=1).eval()
    path = tmp_path / "graph.onnx"
    write_onnx(Prefill(decoder), path, metadata={}, precision=precision)
    num_bytes = path.stat().st_size
    monkeypatch.setattr("recgpt.graphs.onnx_writer.MAX_BYTES", num_bytes)
    write_onnx(Prefill(decoder), path, metadata={}, precision=precision)
    # All but the weights is a tenth of the file at most.
    monkeypatch.setattr("recgpt.graphs.onnx_writer.MAX_BYTES", num_bytes * 9 // 10)
    with pytest.raises(ExportError, match=rf"prefill: .* bytes in {precision}.*--precision float16"):
        write_onnx(Prefill(decoder), path, metadata={}, precision=precision)


def test_weights_that_float16_cannot_hold_are_refused(tmp_path):
    sizes = {"max_length": 4, "hidden_size": 4, "num_blocks": 1, "num_heads": 2, "ffn_size": 4}
    decoder = Decoder(ModelConfig(similarity="inner_product", **sizes), num_items=5, num_users=1)
    with torch.no_grad():
        decoder.item_embedding.weight[1, 2] = 1e5
    with pytest.raises(ExportError, match=r"item_embedding\.weight.*65504.*--precision"):
        write_onnx(Prefill(decoder), tmp_path / "graph.onnx", metadata={}, precision=Precision.FLOAT16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("graph", [Prefill, lambda decoder: Interests(decoder, 2)], ids=["prefill", "interests_2"])
def test_a_user_table_that_was_never_trained_is_left_out_and_users_may_still_be_named(tmp_path, graph):
    config = ModelConfig(max_length=4, hidden_size=4, num_blocks=1, num_heads=2, ffn_size=4)
    decoder = Decoder(config, num_items=5, num_users=10_000)
    write_onnx(graph(decoder), tmp_path / "graph.onnx", metadata={})
    assert (tmp_path / "graph.onnx").stat().st_size < decoder.user_embedding.weight.numel() * 4
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == [tensor.name for tensor in PREFILL.inputs]
    ones = np.ones((2, 3), dtype=np.int64)
    feeds = [np.array([[0], [9_999]]), ones, ones, ones[:, :1] * 3, ones]
    first, *_ = session.run(None, {tensor.name: array for tensor, array in zip(PREFILL.inputs, feeds, strict=True)})
    expected = decoder.eval()(torch.zeros(2, dtype=torch.int64), torch.ones(2, 3).long(), torch.ones(2, 3).long())
    np.testing.assert_allclose(first.reshape(2, -1, 4)[:, 0], expected[:, -1].detach().numpy(), rtol=0, atol=1e-6)


def test_torchscript_stores_the_item_matrix_once(tmp_path):
    config = ModelConfig(max_length=4, hidden_size=16, num_blocks=1, num_heads=2, ffn_size=4)
    decoder = Decoder(config, num_items=20_000, num_users=1)
    write_torchscript(Prefill(decoder), tmp_path / "prefill.pt")
    assert (tmp_path / "prefill.pt").stat().st_size < 1.2 * decoder.item_matrix.numel() * 4


def test_torchscript_runs_without_this_package(small_decoder, tmp_path):
    write_torchscript(Prefill(small_decoder), tmp_path / "prefill.pt")
    module = load_torchscript(tmp_path / "prefill.pt")
    ones = torch.ones(2, 3, dtype=torch.int64)
    interest, next_ids, past = module(ones[:, :1], ones, ones, ones[:, :1] * 3, ones)
    expected = small_decoder.eval()(ones[:, 0], ones, ones)[:, -1]
    np.testing.assert_allclose(interest.numpy(), expected.detach().numpy(), rtol=0, atol=1e-6)
    assert (next_ids.shape, past.shape) == ((2, 1), (2, 1, 2, 2, 3, 2))


def test_a_damaged_or_missing_torchscript_file_is_named(tmp_path, small_decoder):
    (tmp_path / "damaged.pt").write_bytes(b"no zip archive")
    for path in (tmp_path / "damaged.pt", tmp_path / "missing.pt"):
        with pytest.raises(BundleError, match=path.name):
            load_torchscript(path)
    with pytest.raises(BundleError, match="decode missing"):
        TorchScriptBackend({"prefill": tmp_path / "damaged.pt"}, model_spec(small_decoder))


def test_a_folder_that_cannot_be_made_is_an_output_error(small_decoder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_torchscript(Prefill(small_decoder), tmp_path / "file" / "prefill.pt")
