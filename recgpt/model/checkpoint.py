"""A trained model with everything that gives its rows a meaning, as one file.

The file is ``torch.save`` of plain values and tensors, so that it loads with ``weights_only=True``: no code that a file
holds is ever run.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Only the error: it is what torch.load raises for a file that holds more than tensors and plain values.
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recgpt.config import ModelConfig
from recgpt.data.ids import IdMap
from recgpt.errors import CheckpointError, DataError
from recgpt.files import atomic_path
from recgpt.model.decoder import Decoder
from recgpt.training_state import TrainingState
from recgpt.types import Int64Array, ItemId

FORMAT = "recgpt-checkpoint"
VERSION = 2

_EXPECTED = "OUT/ckpt.pt as written by: recgpt train --data FILE --out OUT"


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A trained model.

    Attributes:
        decoder: in evaluation mode, on the CPU.
        item_ids: of rows 1..V.
        user_ids: of rows 1..U.
        popularity: (V + 1,) int64, how often each row occurs in the training data; [0] is 0.
        training: what the model went through.
        examples: a few histories, each a user row and its item rows, oldest first; for checks and first steps.
    """

    decoder: Decoder
    item_ids: IdMap
    user_ids: IdMap
    popularity: Int64Array
    training: TrainingState
    examples: tuple[tuple[int, Int64Array], ...]


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, wholly or not at all.

    Raises:
        OutputError: the file cannot be written; what was there before is untouched.
    """
    decoder = checkpoint.decoder
    values = {
        "format": FORMAT,
        "version": VERSION,
        "model": dataclasses.asdict(decoder.config),
        "weights": {name: tensor.detach().cpu() for name, tensor in decoder.state_dict().items()},
        "item_ids": _pack_ids(checkpoint.item_ids),
        "user_ids": _pack_ids(checkpoint.user_ids),
        "popularity": torch.from_numpy(checkpoint.popularity),
        "training": checkpoint.training.to_dict(),
        "examples": [(user_row, torch.from_numpy(rows.copy())) for user_row, rows in checkpoint.examples],
    }
    # Through memory, since torch.save reports a full disk as an error of its own and not as an OSError.
    buffer = io.BytesIO()
    torch.save(values, buffer)
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        CheckpointError: the file is missing, damaged, of another version, or was not written by ``save_checkpoint``.
    """
    path = Path(path)
    values = _read(path)
    if values.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this package; expected {_EXPECTED}")
    if values.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {values.get('version')!r}, this package reads version {VERSION}; "
            f"train again, or use the package that wrote it"
        )
    try:
        return _unpack(values)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, DataError) as error:
        raise CheckpointError(
            f"{path} says it is a checkpoint, but its parts do not fit together ({error}); train again"
        ) from error


def _read(path: Path) -> Mapping[str, Any]:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; expected a checkpoint file, such as {path / 'ckpt.pt'}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected {_EXPECTED}")
    # torch.save writes a zip archive whose directory comes last: without it the file was cut off, or never was one.
    if not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is truncated or no checkpoint at all; copy it again, or train again")
    try:
        _check_sums(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and plain values and was not loaded; expected {_EXPECTED}"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy it again, or train again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}; expected {_EXPECTED}")
    return values


def _check_sums(path: Path) -> None:
    """BadZipFile if a part's bytes changed since it was written; torch.load itself does not look."""
    with zipfile.ZipFile(path) as archive:
        changed = archive.testzip()
    if changed is not None:
        raise zipfile.BadZipFile(f"checksum of {changed} is wrong")


def _unpack(values: Mapping[str, Any]) -> Checkpoint:
    item_ids, user_ids = _unpack_ids(values["item_ids"]), _unpack_ids(values["user_ids"])
    decoder = Decoder(ModelConfig(**values["model"]), num_items=len(item_ids), num_users=len(user_ids))
    decoder.load_state_dict(values["weights"])
    popularity: Int64Array = values["popularity"].numpy()
    if popularity.shape != (len(item_ids) + 1,):
        raise ValueError(f"popularity of shape {popularity.shape} for {len(item_ids)} items")
    return Checkpoint(
        decoder=decoder.eval(),
        item_ids=item_ids,
        user_ids=user_ids,
        popularity=popularity,
        training=TrainingState.from_dict(values["training"]),
        examples=tuple((int(user_row), rows.numpy()) for user_row, rows in values["examples"]),
    )


def _pack_ids(ids: IdMap) -> Tensor | list[ItemId]:
    """Ints as one tensor, since a list of millions loads slowly; strs, and ints beyond 64 bits, as a list."""
    if all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in ids.ids):
        return torch.from_numpy(np.array(ids.ids, dtype=np.int64))
    return list(ids.ids)


def _unpack_ids(packed: Tensor | Sequence[ItemId]) -> IdMap:
    return IdMap(packed.tolist() if isinstance(packed, Tensor) else packed)
