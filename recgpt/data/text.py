"""Files as bytes and as lines, plain or compressed: .xz and .gz are told by their names. Knows no format inside."""

from __future__ import annotations

import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from recgpt.errors import DataError

_COMPRESSED: dict[str, Callable[..., IO[Any]]] = {".xz": lzma.open, ".gz": gzip.open}


def content_suffix(path: Path) -> str:
    """The suffix that tells the format, lower case: ``.csv`` for ``log.csv`` and for ``LOG.CSV.xz``."""
    return Path(path.stem if path.suffix.lower() in _COMPRESSED else path.name).suffix.lower()


@contextlib.contextmanager
def open_for_reading(path: Path) -> Iterator[IO[bytes]]:
    """Gives a file's uncompressed bytes; errors of the block's own reads become DataError too.

    Raises:
        DataError: the file is not there, may not be read, or is a damaged or truncated archive.
    """
    try:
        with _COMPRESSED.get(path.suffix.lower(), open)(path, "rb") as file:
            yield file
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: truncated, or not a {path.suffix} archive ({error}); expected a whole one: copy the file again"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def open_for_writing(path: Path) -> Iterator[IO[bytes]]:
    """Takes a file's uncompressed bytes and compresses them if the name says so."""
    with _COMPRESSED.get(path.suffix.lower(), open)(path, "wb") as file:
        yield file


def read_lines(path: Path, *, expected: str) -> list[str]:
    r"""Reads a UTF-8 text file whole.

    Lines end with ``\n`` or ``\r\n``; white space after the last line and a byte order mark are dropped.

    Args:
        path: the file.
        expected: what a line should hold, for the messages.

    Raises:
        DataError: as ``open_for_reading``, or the text is empty or not UTF-8.
    """
    with open_for_reading(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 text; expected {expected}") from error
    if not text:
        raise DataError(f"{path}: empty; expected lines with {expected}")
    return text.replace("\r\n", "\n").split("\n")
