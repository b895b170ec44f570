"""Files that are either wholly written or not at all, and hashes to know them by."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from recgpt.errors import OutputError

# From <fcntl.h> and <linux/fs.h>.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV)


@contextlib.contextmanager
def atomic_path(path: Path, *, hidden_in: Path | None = None) -> Iterator[Path]:
    """Gives a temporary path and moves it to ``path`` when the block ends well.

    Works for a file and for a folder (the block makes either at the temporary path). If the block raises, ``path`` is
    what it was before and nothing temporary is left. A file replaces a file only, a folder a folder only.

    A process that is killed leaves ``path`` as it was or as it shall be, and perhaps a hidden folder ``.NAME.*``.
    Filesystems that cannot exchange two folders in one step (some network ones) have a moment between two renames in
    which the old folder is in that hidden one.

    Args:
        path: of the file or folder to be.
        hidden_in: the folder, on the same filesystem, for the hidden one; None puts it beside ``path``.

    Raises:
        OutputError: the folder cannot be written, the disk is full, or something of another kind stands at ``path``.
    """
    path = Path(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=hidden_in or path.parent, prefix=f".{path.name}."))
    try:
        with _writing(path):
            temporary = scratch / path.name
            yield temporary
            _swap(temporary, path, scratch / "previous")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_folder(path: Path, *, hidden_in: Path | None = None) -> None:
    """Removes a folder in one step, as it seems from outside: it is first renamed, and so never seen in part.

    What cannot be removed stays. A process that is killed leaves perhaps a hidden folder ``.NAME.*``.

    Args:
        path: the folder.
        hidden_in: as of ``atomic_path``.
    """
    hidden = (hidden_in or path.parent) / f".{path.name}.{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _swap(temporary: Path, path: Path, previous: Path) -> None:
    kind = "folder" if temporary.is_dir() else "file"
    if path.exists() and not (path.is_dir() if kind == "folder" else path.is_file()):
        raise OutputError(f"cannot write {path}: it exists and is no {kind}; choose another name")
    if not path.is_dir():
        os.replace(temporary, path)
        return
    if _exchange(temporary, path):  # the old folder goes with what is temporary
        return
    # The old one is put back if the second step fails or is interrupted.
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(_put_back, previous, path)
        os.rename(path, previous)
        os.rename(temporary, path)
        on_failure.pop_all()


def _exchange(one: Path, other: Path) -> bool:
    """Lets two paths trade places in one step; False where system or filesystem cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _put_back(previous: Path, path: Path) -> None:
    if previous.exists() and not path.exists():
        os.rename(previous, path)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}. Nothing was changed; choose a writable folder with enough free space"
        ) from error
