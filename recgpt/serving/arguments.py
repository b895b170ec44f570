"""Triton's command line, read as far as the launcher needs it; everything is passed on to the server unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerArguments:
    """The arguments of a ``tritonserver`` command.

    Attributes:
        values: as typed, without the name of the command.
    """

    values: tuple[str, ...]

    def all(self, option: str) -> list[str]:
        """Every value given to ``--option``, as ``--option=value`` or as ``--option value``."""
        flag, found = f"--{option}", []
        for place, text in enumerate(self.values):
            if text.startswith(f"{flag}="):
                found.append(text.partition("=")[2])
            elif text == flag and place + 1 < len(self.values):
                found.append(self.values[place + 1])
        return found

    def last(self, option: str, default: str) -> str:
        """The value that counts, or the default."""
        return (self.all(option) or [default])[-1]

    def allows(self, option: str, *, default: bool) -> bool:
        """A boolean option, read as Triton reads it."""
        return self.last(option, str(default)).lower() in ("true", "1", "on")

    def has(self, option: str) -> bool:
        """Whether the option was given at all."""
        return any(text == f"--{option}" or text.startswith(f"--{option}=") for text in self.values)

    def repositories(self) -> list[str]:
        """The model repositories, in the order given."""
        return self.all("model-repository") + self.all("model-store")

    def with_defaults(self, defaults: Sequence[tuple[str, str]]) -> ServerArguments:
        """The same with options added that were not given."""
        added = [f"--{option}={value}" for option, value in defaults if not self.has(option)]
        return ServerArguments((*self.values, *added))
