"""New items between two trainings: a bundle with more items than its model knows, made of an existing one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from recgpt.bundle import INDEX, NEIGHBOURS, Bundle, write_catalogue, write_manifest
from recgpt.data.ids import IdMap
from recgpt.errors import DataError
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.index import ItemIndex
from recgpt.types import Float32Array, ItemId


def check_new_items(bundle: Bundle, items: Sequence[ItemId], vectors: Float32Array) -> None:
    """DataError unless these are distinct items, new to the bundle and never deleted, with one finite vector each."""
    size = bundle.manifest.model.hidden_size
    if vectors.shape != (len(items), size) or not len(items):
        raise DataError(f"vectors of shape {vectors.shape} for {len(items)} items; expected ({len(items)}, {size})")
    if not np.isfinite(vectors).all():
        raise DataError("a vector holds NaN or infinity; expected finite numbers")
    catalogue = bundle.catalogue()
    known = [item for item, row in zip(items, catalogue.item_ids.rows(items), strict=True) if row]
    if known:
        raise DataError(f"item {known[0]!r} is in the bundle already; expected new items only")
    deleted = set(bundle.deleted) & set(items)
    if deleted:
        raise DataError(f"item {min(deleted, key=str)!r} was deleted, and deleted items never come back; leave it out")
    IdMap((*catalogue.item_ids.ids, *items))  # distinct, and of the ids' type


def write_with_items(
    bundle: Bundle, folder: Path, items: Sequence[ItemId], vectors: Float32Array, *, version: int
) -> None:
    """Writes a bundle with items behind those of another one: same graphs, longer index and id map.

    They can be recalled from now on; in a history they are unknown to the model, and dropped and counted. They are no
    popular items, and never fed back as generated ones.

    Args:
        bundle: an existing one, without items left out.
        folder: where; must not exist.
        items: new ids, checked.
        vectors: (N, D) float32, in the space of the model's item matrix.
        version: of the new bundle.
    """
    manifest = bundle.manifest
    bundle.copy_to(folder)
    whole = dataclasses.replace(bundle, deleted=())
    catalogue, known = whole.catalogue(), whole.index().vectors()
    padding = np.zeros((1, known.shape[1]), dtype=np.float32)
    ItemIndex.build(np.concatenate([padding, known, vectors])).save(folder / INDEX)
    neighbours = whole.neighbours()
    if neighbours is not None:
        neighbours.add(vectors)
        neighbours.save(folder / NEIGHBOURS)
    longer = Catalogue(
        item_ids=IdMap((*catalogue.item_ids.ids, *items)),
        user_ids=catalogue.user_ids,
        popularity=np.concatenate([catalogue.popularity, np.zeros(len(items), dtype=np.int64)]),
    )
    write_catalogue(folder, longer, whole.examples())
    write_manifest(
        folder,
        dataclasses.replace(
            manifest,
            version=version,
            export_version=manifest.model_version,
            num_added_items=manifest.num_added_items + len(items),
        ),
    )


def read_new_items(ids: Path, vectors: Path, parse: Callable[[str], ItemId]) -> tuple[list[ItemId], Float32Array]:
    """Reads new items: a text file with one id a line, and a ``.npy`` file with one row an id.

    Args:
        ids: text file.
        vectors: array file, (N, D), numbers.
        parse: makes an id of a line.

    Raises:
        DataError: a file cannot be read as this.
    """
    try:
        lines = ids.read_text().splitlines()
        array = np.load(vectors, allow_pickle=False)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{ids}, {vectors}: expected a text file of ids and a .npy file of vectors: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise DataError(f"{vectors}: expected one array of numbers, (N, D)")
    return [parse(line) for line in lines], array.astype(np.float32)
