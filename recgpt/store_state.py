"""What a bundle store says of itself: one small file, replaced in one step, that decides which bundle is served.

Knows nothing of what a bundle is.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recgpt.errors import BundleError
from recgpt.files import atomic_path
from recgpt.types import ItemId

STATE = "store.json"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class StoreState:
    """The state of a store; a change makes another one.

    Attributes:
        revision: rises with every change, so that who follows a store sees each.
        current: version of the bundle that is served; None before the first.
        previous: versions that were served before, oldest first; a rollback goes back from the end.
        retired: version -> when it was last replaced, seconds since 1970.
        deleted: item ids that are never recalled, whichever bundle is current.
    """

    revision: int = 0
    current: int | None = None
    previous: tuple[int, ...] = ()
    retired: Mapping[int, int] = field(default_factory=dict)
    deleted: tuple[ItemId, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> StoreState | None:
        """The state of the store in a folder; None if that is no store; BundleError if it cannot be read."""
        path = folder / STATE
        if not path.is_file():
            return None
        try:
            values: dict[str, Any] = json.loads(path.read_text())
            if values.pop("format") != _FORMAT:
                raise ValueError("another format")
            values["retired"] = {int(version): int(when) for version, when in values["retired"].items()}
            values["previous"], values["deleted"] = tuple(values["previous"]), tuple(values["deleted"])
            return cls(**values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{path} cannot be read ({error!r}); name the folder of one version instead, or publish to a new store"
            ) from error

    def write(self, folder: Path) -> None:
        """Makes this the state of the store in a folder, in one step; OutputError if it cannot be written."""
        with atomic_path(folder / STATE) as temporary:
            temporary.write_text(json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n")

    def switched(self, version: int, *, now: int) -> StoreState:
        """After a version was published; publishing the current one again changes nothing."""
        if version == self.current:
            return self
        kept = tuple(other for other in self.previous if other != version)
        previous = kept if self.current is None else (*kept, self.current)
        return self._changed(current=version, previous=previous, retired=self._retired(now))

    def rolled_back(self, *, now: int) -> StoreState:
        """After the way back to the version before; BundleError if there is none."""
        if not self.previous:
            raise BundleError(f"there is no version before {self.current}; nothing was changed")
        return self._changed(current=self.previous[-1], previous=self.previous[:-1], retired=self._retired(now))

    def without(self, items: tuple[ItemId, ...]) -> StoreState:
        """After items were deleted, for good."""
        return self._changed(deleted=tuple(dict.fromkeys((*self.deleted, *items))))

    def pruned(self, versions: frozenset[int]) -> StoreState:
        """After versions were removed."""
        return self._changed(
            previous=tuple(version for version in self.previous if version not in versions),
            retired={version: when for version, when in self.retired.items() if version not in versions},
        )

    def _retired(self, now: int) -> dict[int, int]:
        return dict(self.retired) if self.current is None else {**self.retired, self.current: now}

    def _changed(self, **changes: Any) -> StoreState:
        return dataclasses.replace(self, revision=self.revision + 1, **changes)
