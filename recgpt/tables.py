"""Answers as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recgpt.types import Candidates, ItemId


def show_candidates(candidates: Candidates, names: Mapping[ItemId, str], console: Console) -> None:
    """Prints the recalled items, the step that found each, and which cold-start rules applied."""
    table = Table("rank", "item", *(["name"] if names else []), "score", "found by", box=None)
    found = zip(candidates.item_ids, candidates.scores, candidates.steps, strict=True)
    for rank, (item, score, step) in enumerate(found, start=1):
        found_by = f"interest {step}" if step else "popularity"
        table.add_row(str(rank), Text(str(item)), *named(item, names), f"{score:.3f}", found_by)
    console.print(table)
    rules = candidates.cold_start
    if rules.popular:
        console.print("no known item in the history: these are the most popular items")
    if rules.num_unknown_items:
        console.print(f"{rules.num_unknown_items} item(s) of the history are not in the catalogue and were left out")
    if rules.shared_user:
        console.print("user not given or unknown: the shared user vector was used")
    if candidates.generated_ids:
        generated = ", ".join(map(str, candidates.generated_ids))
        console.print(f"generated between the steps: {generated}", markup=False)


def named(item: ItemId, names: Mapping[ItemId, str]) -> list[Text]:
    """The cell of an item's name, where names are shown; their text is not markup."""
    return [Text(names.get(item, ""))] if names else []


def show_parity(rows: Iterable[tuple[str, str]], console: Console) -> None:
    """Prints how far an export and PyTorch agree: what was compared, and how it came out."""
    table = Table("parity with PyTorch", "", box=None)
    for name, value in rows:
        table.add_row(name, value)
    console.print(table)


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, first column to the left, the others to the right."""
    lines = [heading, ["---", *("---:" for _ in heading[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
