"""Exported graphs in a model repository: whole versions or none, and settings that the native backend would accept."""

from __future__ import annotations

import resource
from pathlib import Path

import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from recgpt.errors import OutputError
from recgpt.serving.repository import (
    BOUNDED,
    CONFIG,
    HELD,
    add_version,
    all_versions,
    hold_versions,
    model_versions,
    write_repository,
)

ORT_TYPES = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def folders(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_dir()}


def test_every_graph_stands_with_its_version_and_settings_and_nothing_else(small_graphs, tmp_path):
    write_repository(tmp_path / "models", small_graphs.files, 7)
    expected = {f"{name}/7/model.onnx": path.read_bytes() for name, path in small_graphs.files.items()}
    found = snapshot(tmp_path / "models")
    assert {name: content for name, content in found.items() if not name.endswith(".pbtxt")} == expected
    settings = {f"{name}/{file}" for name in small_graphs.files for file in (CONFIG, BOUNDED)}
    assert {name for name in found if name.endswith(".pbtxt")} == settings


def test_settings_repeat_the_sizes_that_onnx_runtime_reports(small_graphs, tmp_path):
    """NVIDIA's backend refuses to load a model if an output, or a fixed size of an input, differs."""
    write_repository(tmp_path, small_graphs.files, 7)
    for name, path in small_graphs.files.items():
        config = text_format.Parse((tmp_path / name / CONFIG).read_text(), model_config_pb2.ModelConfig())
        session = onnxruntime.InferenceSession(str(path))
        for found, nodes in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert len(found) == len(nodes)
            for tensor, node in zip(found, nodes, strict=True):
                assert tensor.name == node.name
                assert model_config_pb2.DataType.Name(tensor.data_type) == ORT_TYPES[node.type]
                assert not isinstance(node.shape[0], int)
                assert list(tensor.dims) == [size if isinstance(size, int) else -1 for size in node.shape[1:]]


def test_the_bounded_settings_are_the_others_with_a_bounded_queue(small_graphs, tmp_path):
    write_repository(tmp_path, small_graphs.files, 7)
    for name in small_graphs.files:
        plain, bounded = (
            text_format.Parse((tmp_path / name / file).read_text(), model_config_pb2.ModelConfig())
            for file in (CONFIG, BOUNDED)
        )
        policy = bounded.dynamic_batching.default_queue_policy
        assert (policy.max_queue_size, policy.default_timeout_microseconds) == (512, 1_000_000)
        assert policy.allow_timeout_override
        assert policy.timeout_action == policy.REJECT
        bounded.dynamic_batching.ClearField("default_queue_policy")
        assert bounded == plain


def test_a_new_version_replaces_all_others_and_leaves_strangers_alone(small_graphs, tmp_path):
    write_repository(tmp_path, small_graphs.files, 8)
    (tmp_path / "prefill" / "configs" / "mine.pbtxt").write_text("mine")
    (tmp_path / "README.md").write_text("mine")
    write_repository(tmp_path, small_graphs.files, 7)
    assert all(model_versions(tmp_path / name) == [7] for name in small_graphs.files)
    assert (tmp_path / "prefill" / "configs" / "mine.pbtxt").read_text() == "mine"
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_graph_that_is_not_exported_any_more_goes_with_its_settings(small_graphs, tmp_path):
    write_repository(tmp_path, small_graphs.files, 7)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / CONFIG).write_text("another model")
    fewer = {name: path for name, path in small_graphs.files.items() if name != "interests_2"}
    write_repository(tmp_path, fewer, 8)
    assert {path.name for path in tmp_path.iterdir()} == {"prefill", "decode", "mine"}


def test_hidden_folders_of_a_killed_process_do_not_keep_a_graph_without_a_version(small_graphs, tmp_path):
    write_repository(tmp_path, small_graphs.files, 7)
    (tmp_path / "decode" / ".7.abc").mkdir()
    write_repository(tmp_path, {"prefill": small_graphs.files["prefill"]}, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["prefill"]


def test_published_versions_stay_when_an_export_comes(small_graphs, tmp_path):
    write_repository(tmp_path, small_graphs.files, 7)
    hold_versions(tmp_path, [7])
    write_repository(tmp_path, small_graphs.files, 8)
    write_repository(tmp_path, small_graphs.files, 9)
    assert all_versions(tmp_path) == {name: [7, 9] for name in small_graphs.files}


def test_published_versions_of_other_sizes_are_in_the_way(small_graphs, tmp_path):
    write_repository(tmp_path, small_graphs.files, 7)
    hold_versions(tmp_path, [7])
    config = tmp_path / "prefill" / CONFIG
    config.write_text(config.read_text().replace("dims: [16]", "dims: [32]"))
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match="prefill holds the published version.*7.*other sizes"):
        write_repository(tmp_path, small_graphs.files, 8)
    assert snapshot(tmp_path) == before


def test_a_list_of_published_versions_that_cannot_be_read_is_an_output_error(small_graphs, tmp_path):
    (tmp_path / HELD).write_text("[]")
    with pytest.raises(OutputError, match="publish again"):
        write_repository(tmp_path, small_graphs.files, 7)


def test_a_version_that_stands_is_not_written_again(small_graphs, tmp_path):
    add_version(tmp_path, small_graphs.files, 7)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    add_version(tmp_path, small_graphs.files, 7)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}.items() <= stamps.items()


def test_settings_that_fit_are_not_touched(small_graphs, tmp_path):
    write_repository(tmp_path, small_graphs.files, 7)
    stamps = {name: (tmp_path / name / CONFIG).stat().st_mtime_ns for name in small_graphs.files}
    write_repository(tmp_path, small_graphs.files, 8)
    assert {name: (tmp_path / name / CONFIG).stat().st_mtime_ns for name in small_graphs.files} == stamps


def test_a_full_disk_leaves_the_repository_as_it_was(small_graphs, tmp_path):
    write_repository(tmp_path, small_graphs.files, 7)
    before, folders_before = snapshot(tmp_path), folders(tmp_path)
    limit = max(path.stat().st_size for path in small_graphs.files.values()) - 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Writing past the limit fails like writing to a full disk: at some block of some file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError, match="cannot write"):
            write_repository(tmp_path, small_graphs.files, 8)
        with pytest.raises(OutputError, match="cannot write"):
            write_repository(tmp_path / "new", small_graphs.files, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert snapshot(tmp_path) == before
    assert folders(tmp_path) == folders_before


def test_a_folder_that_cannot_be_made_is_an_output_error(small_graphs, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write"):
        write_repository(tmp_path / "file", small_graphs.files, 7)
    assert (tmp_path / "file").read_text() == "not a folder"
