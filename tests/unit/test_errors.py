from __future__ import annotations

import inspect
import re

import pytest

from recgpt import errors
from recgpt.errors import RecGPTError, ShortfallError

CLASSES = {name: value for name, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)}


def drawn_tree() -> dict[str, str | None]:
    """Name -> parent, read off the drawing in the module's docstring by its indentation."""
    tree: dict[str, str | None] = {}
    open_branches: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ((?:[|+\- ]*))([A-Z]\w+)(?:  .*)?", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        open_branches = [(indent, above) for indent, above in open_branches if indent < depth]
        tree[name] = open_branches[-1][1] if open_branches else None
        open_branches.append((depth, name))
    return tree


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    parents = {
        name: next((b.__name__ for b in c.__bases__ if issubclass(b, RecGPTError)), None) for name, c in CLASSES.items()
    }
    assert drawn_tree() == parents
    assert len(parents) > 15


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"ShortfallError"}))
def test_every_error_takes_one_message_and_shows_it(name: str) -> None:
    error = CLASSES[name]("what was given, what was expected, what to do")
    assert isinstance(error, RecGPTError)
    assert str(error) == "what was given, what was expected, what to do"
    assert CLASSES[name].__doc__


def test_a_shortfall_carries_its_numbers() -> None:
    error = ShortfallError("too few", requested=10, available=3)
    assert (str(error), error.requested, error.available) == ("too few", 10, 3)
