"""The commands as a user types them, each in a process of its own, and what each says when the input is bad."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import Export

from recgpt.bundle import Bundle, write_manifest
from recgpt.data.sequences import write_sequences
from recgpt.data.synthetic import generate
from recgpt.files import sha256
from recgpt.model.checkpoint import load_checkpoint, save_checkpoint
from recgpt.model.decoder import Decoder

ROOT = Path(__file__).parents[2]
RECGPT = (str(Path(sys.executable).with_name("recgpt")),)
TO_ONNX = (sys.executable, str(ROOT / "export" / "to_onnx.py"))
TO_TORCHSCRIPT = (sys.executable, str(ROOT / "export" / "to_torchscript.py"))

TINY = """
num_prompts = 1
[model]
max_length = 12
hidden_size = 8
num_heads = 2
ffn_size = 16
# Stage 1 learns little in an epoch, stage 2 much: it is kept only if it is better.
[pretrain]
learning_rate = 1e-5
[tune]
learning_rate = 3e-2
"""


def run(*command: object, cwd: Path, max_file_bytes: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
    # A wide terminal, so that no message is broken in the middle of what a test looks for.
    environment = os.environ | {"COLUMNS": "250"}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def refused(*command: object, cwd: Path) -> str:
    """The one message of a command that must fail; nothing on stdout, no traceback."""
    result = run(*command, cwd=cwd)
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr
    message = result.stderr.strip()
    assert len(message.splitlines()) == 1, message
    return message


@dataclass(frozen=True)
class Trained:
    """A run folder of ``recgpt train`` on generated data."""

    data: Path
    checkpoint: Path
    printed: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    write_sequences(folder / "data.txt", generate(num_users=60, num_items=120, seed=0))
    (folder / "tiny.toml").write_text(TINY)
    command = ("train", "--data", "data.txt", "--out", "run", "--epochs", 1, "--config", "tiny.toml")
    result = run(*RECGPT, *command, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return Trained(folder / "data.txt", folder / "run" / "ckpt.pt", result.stdout)


def test_training_says_what_it_read_and_writes_a_checkpoint(trained: Trained) -> None:
    assert "60 users" in trained.printed
    checkpoint = load_checkpoint(trained.checkpoint)
    assert len(checkpoint.user_ids) == 60
    assert checkpoint.training.is_prompt_tuned
    assert (checkpoint.training.num_epochs, checkpoint.training.data) == (2, "data.txt")
    assert checkpoint.decoder.config.hidden_size == 8


def test_evaluation_prints_a_table_and_writes_the_same_as_json(trained: Trained, tmp_path: Path) -> None:
    command = ("evaluate", trained.checkpoint, "--data", trained.data, "--json", "new/report.json", "--quotas", "7,3")
    result = run(*RECGPT, *command, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads((tmp_path / "new" / "report.json").read_text())
    assert [(row["name"], row["quotas"]) for row in report["rows"]] == [
        ("PopRec", None),
        ("RecGPT_1", [10]),
        ("RecGPT", [7, 3]),
    ]
    for row in report["rows"]:
        assert 0 <= row["ndcg@5"] <= row["hr@5"] <= row["hr@10"] <= 1
        for metric in ("hr@5", "hr@10", "ndcg@5", "ndcg@10"):
            assert f"{row[metric]:.4f}" in result.stdout
    assert report["training"]["stage"] == "prompt_tuned"


def test_torchscript_export_prints_parity(trained: Trained, tmp_path: Path) -> None:
    result = run(*TO_TORCHSCRIPT, trained.checkpoint, "--out", "bundle", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "top-10 lists that agree" in result.stdout
    assert {path.name for path in (tmp_path / "bundle").glob("*.pt")} == {
        "prefill.pt",
        "decode.pt",
        "interests_1.pt",
        "interests_2.pt",
        "interests_6.pt",
    }


def test_recall_in_process_prints_items_steps_and_cold_start(export: Export, tmp_path: Path) -> None:
    command = (
        "recall",
        "--bundle",
        export.bundle,
        "--user",
        300,
        "--k",
        5,
        "--quotas",
        "3,2",
        "--history",
        "i12",
        "i99",
        "no",
    )
    result = run(*RECGPT, *command, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("interest 1") == 3
    assert result.stdout.count("interest 2") == 2
    assert "1 item(s) of the history are not in the catalogue" in result.stdout
    assert "shared user" not in result.stdout
    assert "i12 " not in result.stdout  # seen


def test_recall_without_a_history_gives_popular_items_and_says_so(export: Export, tmp_path: Path) -> None:
    result = run(*RECGPT, "recall", "--bundle", export.bundle, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("popularity") == 10
    assert "most popular items" in result.stdout
    assert "shared user" in result.stdout


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    assert "CheckpointError: none.pt: no such file" in refused(*TO_ONNX, "none.pt", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_truncated_checkpoint(trained: Trained, tmp_path: Path) -> None:
    content = trained.checkpoint.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    assert "CheckpointError: cut.pt is truncated" in refused(
        *RECGPT, "evaluate", "cut.pt", "--data", trained.data, cwd=tmp_path
    )


def test_data_of_another_model(trained: Trained, tmp_path: Path) -> None:
    write_sequences(tmp_path / "other.txt", generate(num_users=61, num_items=120, seed=0))
    message = refused(*RECGPT, "evaluate", trained.checkpoint, "--data", "other.txt", cwd=tmp_path)
    assert "DataError: the data's" in message
    assert "the checkpoint was trained on" in message


def test_training_that_is_stopped_says_how_to_go_on(trained: Trained, tmp_path: Path) -> None:
    # A shell's background jobs, and so their children, would ignore Ctrl-C.
    attentive = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from recgpt.cli import main; main()"
    )
    command = [sys.executable, "-c", attentive, "train", "--data", trained.data, "--out", "run", "--epochs", "500"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            if "epoch 2 of" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait(timeout=60) == 130
    assert "stopped; the same command goes on with run/pretrain/last.ckpt" in rest
    assert "Traceback" not in rest


def test_other_interactions_of_the_same_users_and_items(trained: Trained, tmp_path: Path) -> None:
    turned = [line.split() for line in trained.data.read_text().splitlines()]
    (tmp_path / "turned.txt").write_text("".join(f"{' '.join([user, *items[::-1]])}\n" for user, *items in turned))
    message = refused(*RECGPT, "evaluate", trained.checkpoint, "--data", "turned.txt", cwd=tmp_path)
    assert "DataError" in message
    assert "other interactions" in message


def test_no_data(tmp_path: Path) -> None:
    assert "none.txt" in refused(*RECGPT, "train", "--data", "none.txt", "--out", "run", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_nan_weights_at_export(trained: Trained, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained.checkpoint)
    with torch.no_grad():
        checkpoint.decoder.item_embedding.weight[7, 3] = torch.nan
    save_checkpoint(tmp_path / "nan.pt", checkpoint)
    message = refused(*TO_ONNX, "nan.pt", "--out", "bundle", "--model-repository", "models", cwd=tmp_path)
    assert "ExportError: weight item_embedding.weight holds NaN" in message
    assert [path.name for path in tmp_path.iterdir()] == ["nan.pt"]


def test_an_export_that_does_not_agree_with_pytorch(trained: Trained, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained.checkpoint)
    config = dataclasses.replace(checkpoint.decoder.config, similarity="inner_product")
    decoder = Decoder(config, num_items=len(checkpoint.item_ids), num_users=len(checkpoint.user_ids)).eval()
    with torch.no_grad():
        decoder.final_norm.weight.mul_(1e6)  # rounding of values of a million is beyond any tolerance
    save_checkpoint(tmp_path / "huge.pt", dataclasses.replace(checkpoint, decoder=decoder))
    result = run(*TO_TORCHSCRIPT, "huge.pt", "--out", "bundle", cwd=tmp_path)
    assert result.returncode == 1
    assert "ParityError" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["huge.pt"]


def test_an_output_folder_that_cannot_be_written(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    message = refused(*TO_TORCHSCRIPT, trained.checkpoint, "--out", "file/bundle", cwd=tmp_path)
    assert "OutputError: cannot write file/bundle" in message
    assert (tmp_path / "file").read_text() == "kept"


def test_a_disk_without_room_leaves_the_previous_export(trained: Trained, export: Export, tmp_path: Path) -> None:
    bundle = shutil.copytree(export.bundle, tmp_path / "bundle")
    before = {path.name: sha256(path) for path in bundle.iterdir()}
    # The size of one file is limited, which a program meets as it meets a full disk: a write that fails.
    result = run(*TO_TORCHSCRIPT, trained.checkpoint, "--out", "bundle", cwd=tmp_path, max_file_bytes=20_000)
    assert result.returncode == 1
    assert "OutputError: cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    assert {path.name: sha256(path) for path in bundle.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.fixture
def bundle(export: Export, tmp_path: Path) -> Path:
    return shutil.copytree(export.bundle, tmp_path / "bundle")


def test_a_bundle_with_a_changed_file(bundle: Path, tmp_path: Path) -> None:
    (bundle / "prefill.onnx").write_bytes((bundle / "prefill.onnx").read_bytes() + b"\0")
    message = refused(*RECGPT, "recall", "--bundle", bundle, "--history", "i1", cwd=tmp_path)
    assert "BundleCorruptError" in message
    assert "prefill.onnx is not the file that was exported" in message


def test_no_bundle(tmp_path: Path) -> None:
    message = refused(*RECGPT, "recall", "--history", "i1", cwd=tmp_path)
    assert "BundleError" in message
    assert "python export/to_onnx.py ckpt.pt --out artifacts/bundle" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--k", 300, "--history", "i1"), "ShortfallError: k = 300, but only 299"),
        (("--quotas", "5,4", "--history", "i1"), "QuotaError: quotas = (5, 4) sum to 9; expected k = 10"),
        (("--quotas", "9;1", "--history", "i1"), "RequestError: quotas '9;1': expected whole numbers"),
        (("--k", 0, "--history", "i1"), "RequestError: k = 0"),
    ],
)
def test_a_request_that_cannot_be_met(export: Export, tmp_path: Path, arguments: tuple[object, ...], said: str) -> None:
    assert said in refused(*RECGPT, "recall", "--bundle", export.bundle, *arguments, cwd=tmp_path)


def test_no_server(export: Export, tmp_path: Path) -> None:
    command = ("recall", "--url", "127.0.0.1:9", "--bundle", export.bundle, "--history", "i1")
    message = refused(*RECGPT, *command, cwd=tmp_path)
    assert "ServerUnavailableError" in message
    assert "127.0.0.1:9" in message


def test_settings_that_do_not_exist(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("[model]\nwidth = 3\n")
    command = ("train", "--data", trained.data, "--out", "run", "--config", "wrong.toml")
    message = refused(*RECGPT, *command, cwd=tmp_path)
    assert "ConfigError: [model] of wrong.toml: unknown key width; valid keys: max_length, hidden_size" in message


def test_bundles_are_listed_published_changed_and_rolled_back(export: Export, bundle: Path, tmp_path: Path) -> None:
    first = Bundle.open(bundle).manifest
    write_manifest(bundle, dataclasses.replace(first, version=first.version + 1))
    (tmp_path / "ids.txt").write_text("new\n")
    np.save(tmp_path / "vectors.npy", np.ones((1, 16)))

    def bundles(*command: object) -> str:
        result = run(*RECGPT, "bundle", *command, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    def listed() -> dict[str, list[str]]:
        rows = [line.split() for line in bundles("list").splitlines()[1:]]
        return {row[0]: row[1:4] for row in rows if row[0] in ("current", "previous")}

    versions = [str(first.version), str(first.version + 1)]
    for folder in (export.bundle, bundle):
        bundles("publish", folder)
    assert listed() == {"current": [versions[1]] * 2 + ["300"], "previous": [versions[0]] * 2 + ["300"]}
    bundles("rollback")
    assert listed() == {"current": [versions[0]] * 2 + ["300"]}
    assert "1 new item" in bundles("add-items", "--ids", "ids.txt", "--vectors", "vectors.npy")
    assert listed()["current"][1:] == [versions[0], "300"]
    bundles("delete-items", "new", "i7")
    assert "2 item(s) deleted for good" in bundles("list")
    command = ("recall", "--bundle", "artifacts/bundles", "--k", 297, "--history", "i1", "i2")
    result = run(*RECGPT, *command, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    shown = {line.split()[1] for line in result.stdout.splitlines() if "interest" in line}
    assert shown == {f"i{row}" for row in range(3, 301)} - {"i7"}


def test_a_store_without_a_bundle(tmp_path: Path) -> None:
    assert "no version before" in refused(*RECGPT, "bundle", "rollback", cwd=tmp_path)
    assert "BundleError" in refused(*RECGPT, "bundle", "publish", cwd=tmp_path)
