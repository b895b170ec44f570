"""The model ``recall_engine`` in a model repository: a version's folder holds all that it needs.

    recall_engine/
      config.pbtxt
      <version>/  model.py  bundle/  store.json

The version is the bundle's own, also where items were added and the graphs are those of an earlier version. What was
deleted from the store stands in ``store.json``, which alone changes while a version is served.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from recgpt.bundle import MANIFEST, Bundle
from recgpt.one_hop.engine_codec import MODEL, id_dtype
from recgpt.serving.repository import engine_configs
from recgpt.signature import recall_engine_spec
from recgpt.store_state import StoreState
from recgpt.types import ItemId

BUNDLE = "bundle"
_PROGRAM = Path(__file__).parent / "recall_engine" / "model.py"


class EngineFiles:
    """What a model repository needs of ``recall_engine`` for one bundle; a ``ServedFolder``.

    Args:
        bundle: an export in ONNX.
        item_dtype: of item ids on the wire.
        user_dtype: of user ids on the wire.
    """

    name = MODEL

    def __init__(self, bundle: Bundle, *, item_dtype: str, user_dtype: str) -> None:
        self._bundle = bundle
        self.version = bundle.manifest.version
        self.configs: Mapping[str, str] = engine_configs(recall_engine_spec(item_dtype, user_dtype))

    @classmethod
    def of(cls, bundle: Bundle) -> EngineFiles | None:
        """For a bundle; None where its ids cannot cross the wire, being numbers beyond 64 bits."""
        catalogue = bundle.catalogue()
        item_dtype, user_dtype = id_dtype(catalogue.item_ids), id_dtype(catalogue.user_ids)
        if item_dtype is None or user_dtype is None:
            return None
        return cls(bundle, item_dtype=item_dtype, user_dtype=user_dtype)

    def write(self, folder: Path) -> None:
        """Makes the folder of the version; OSError if it cannot be written."""
        folder.mkdir()
        self._bundle.copy_to(folder / BUNDLE)
        shutil.copyfile(_PROGRAM, folder / _PROGRAM.name)
        if self._bundle.deleted:
            _state(self._bundle.deleted, self._bundle.revision).write(folder)

    def stands_at(self, folder: Path) -> bool:
        """Whether a folder holds this bundle and this program; the manifest holds the hash of every other file."""
        pairs = ((_PROGRAM, folder / _PROGRAM.name), (self._bundle.path / MANIFEST, folder / BUNDLE / MANIFEST))
        return all(copy.is_file() and copy.read_bytes() == original.read_bytes() for original, copy in pairs)


def tell_deleted(repository: Path, deleted: Iterable[ItemId], revision: int) -> None:
    """Writes down for every version of the engine in a repository what was deleted; those served follow by themselves.

    Raises:
        OutputError: a folder cannot be written.
    """
    for bundle in sorted((repository / MODEL).glob(f"*/{BUNDLE}")):
        _state(deleted, revision).write(bundle.parent)


def _state(deleted: Iterable[ItemId], revision: int) -> StoreState:
    return StoreState(deleted=tuple(deleted), revision=revision)
