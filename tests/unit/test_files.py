from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recgpt import files
from recgpt.errors import DataError, OutputError
from recgpt.files import atomic_path, remove_folder, sha256


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_whole_in_folders_that_did_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.json"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert listing(tmp_path) == ["new", "new/deep", "new/deep/file.json"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert listing(tmp_path) == ["file"]


def test_a_folder_is_replaced_and_nothing_of_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    for names in (("a", "b"), ("b", "c")):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            for name in names:
                (temporary / name).write_text(str(names))
    assert listing(tmp_path) == ["bundle", "bundle/b", "bundle/c"]
    assert (path / "b").read_text() == str(("b", "c"))


def test_what_is_temporary_may_be_hidden_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with atomic_path(tmp_path / "new", hidden_in=tmp_path / "other") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("whole")
        assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert listing(tmp_path) == ["new", "new/file", "other"]


def test_a_removed_folder_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old" / "deep").mkdir(parents=True)
    remove_folder(tmp_path / "old")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("error", [DataError("ours"), ValueError("another"), KeyboardInterrupt()])
@pytest.mark.parametrize("folder", [False, True])
def test_an_exception_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, error: BaseException, folder: bool
) -> None:
    path = tmp_path / "out"
    inside = path / "file" if folder else path
    inside.parent.mkdir(exist_ok=True)
    inside.write_text("old")
    before = listing(tmp_path)
    with pytest.raises(type(error)) as caught, atomic_path(path) as temporary:
        if folder:
            temporary.mkdir()
        (temporary / "file" if folder else temporary).write_text("new")
        raise error
    assert caught.value is error
    assert inside.read_text() == "old"
    assert listing(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_output_error_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OutputError, match="file.*No space left"), atomic_path(path) as temporary:
        temporary.symlink_to("/dev/full")
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert listing(tmp_path) == ["file"]


def test_a_place_that_cannot_hold_files_is_an_output_error(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    with pytest.raises(OutputError, match="cannot write.*writable folder"), atomic_path(blocker / "out" / "bundle"):
        pytest.fail("nothing may be computed for a place that cannot be written")
    assert blocker.read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_an_output_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot write"), atomic_path(tmp_path / "file"):
        pytest.fail("nothing may be computed for a place that cannot be written")


def test_a_file_never_takes_the_place_of_a_folder_nor_the_reverse(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "precious").write_text("kept")
    file.write_text("kept")
    with pytest.raises(OutputError, match="folder"), atomic_path(folder) as temporary:
        temporary.write_text("a report")
    with pytest.raises(OutputError, match="file"), atomic_path(file) as temporary:
        temporary.mkdir()
    assert (folder / "precious").read_text() == file.read_text() == "kept"
    assert listing(tmp_path) == ["file", "folder", "folder/precious"]


def test_something_that_is_neither_file_nor_folder_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="pipe"), atomic_path(pipe) as temporary:
        temporary.write_text("a report")
    assert pipe.is_fifo()


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    with atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("")
    assert (tmp_path / "file").stat().st_mode == plain.stat().st_mode


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


KILL = """
import sys
from pathlib import Path
from kill_points import each_kill_point
from recgpt.files import atomic_path

bundle = Path(sys.argv[1])

def replace():
    with atomic_path(bundle) as temporary:
        temporary.mkdir()
        for name in ("a", "b"):
            (temporary / name).write_text("new")

def made_of(text):
    with atomic_path(bundle) as temporary:
        temporary.mkdir()
        for name in ("a", "b"):
            (temporary / name).write_text(text)

made_of("old")
for number in each_kill_point(replace):
    print(*sorted({path.read_text() for path in bundle.iterdir()}), len(list(bundle.iterdir())))
    made_of("old")
"""


def test_a_process_killed_at_any_step_leaves_the_old_folder_or_the_new_one(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    found = subprocess.run(
        [sys.executable, "-c", KILL, tmp_path / "bundle"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert set(found) == {"old 2", "new 2"}
    assert found[0] == "old 2"
    assert found[-1] == "new 2"
    assert len(found) > 6


def test_an_interrupted_swap_of_folders_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a filesystem that cannot exchange folders.
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").write_text("old")
    rename, calls = os.rename, []

    def interrupted(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_path(folder) as temporary:
        temporary.mkdir()
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
