"""The folder of one training run: what is in it, and whose run it is.

OUT/
  config.json         settings and a hash of the data; a run goes on only under the same
  pretrain/           Lightning's checkpoints of stage 1: last.ckpt to go on from, best.ckpt; epochs.log, a line each
  pretrained.pt       the model after stage 1
  tune/               the same of stage 2
  tuned.pt            the model after stage 2
  ckpt.pt             the finished model: that of stage 2, or of stage 1 where stage 2 made nothing better
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from recgpt.config import TrainingConfig
from recgpt.data.interactions import Interactions
from recgpt.errors import ConfigError
from recgpt.files import atomic_path


class RunFolder:
    """Paths of a run.

    Args:
        path: OUT.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "config.json"
        self.pretrained = path / "pretrained.pt"
        self.tuned = path / "tuned.pt"
        self.final = path / "ckpt.pt"

    def stage(self, name: str) -> Path:
        """Folder of a stage's own checkpoints."""
        return self.path / name

    def claim(self, config: TrainingConfig, interactions: Interactions) -> None:
        """Writes down whose run this is, or checks that it is the same run as the one begun here.

        Raises:
            ConfigError: a run with other settings or data was begun here; says what differs.
            OutputError: the folder cannot be written.
        """
        mine = {"config": config.to_dict(), "data": _describe(interactions)}
        if not self.record.exists():
            with atomic_path(self.record) as temporary:
                temporary.write_text(json.dumps(mine, indent=2) + "\n")
            return
        try:
            begun = json.loads(self.record.read_text())
            # Settings that a later version added had their defaults when this run began.
            begun["config"] = TrainingConfig.from_dict(begun["config"]).to_dict()
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise ConfigError(f"{self.record} cannot be read ({error}); choose another --out") from error
        differences = list(_differences(begun, mine))
        if differences:
            raise ConfigError(
                f"{self.path} holds a run with other settings or data: {'; '.join(differences)}. "
                f"Choose another --out, or run with the settings of {self.record}"
            )


def _describe(interactions: Interactions) -> dict[str, Any]:
    """Sizes and a hash of the data itself, so that a file may move but not change."""
    return {
        "num_users": interactions.num_users,
        "num_items": interactions.num_items,
        "num_interactions": interactions.num_interactions,
        "sha256": interactions.digest(),
    }


def _differences(begun: Any, mine: Any, name: str = "") -> Iterator[str]:
    """Each setting that differs, by its dotted name."""
    if isinstance(begun, Mapping) and isinstance(mine, Mapping):
        for key in sorted({*begun, *mine}):
            yield from _differences(begun.get(key), mine.get(key), f"{name}.{key}" if name else key)
    elif begun != mine:
        yield f"{name} was {begun!r}, is {mine!r}"
