from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from recgpt.tables import show_candidates
from recgpt.types import Candidates, ColdStart, Timings


def test_ids_and_names_are_shown_to_the_letter() -> None:
    ids = ("[sale]x", "b[/b]")
    candidates = Candidates(
        item_ids=ids,
        scores=np.array([2.0, 1.0], np.float32),
        steps=np.array([1, 2]),
        generated_ids=ids[:1],
        cold_start=ColdStart(shared_user=False, num_unknown_items=0, popular=False),
        timings=Timings(encode_ns=0, interests_ns=0, search_ns=0, merge_ns=0, total_ns=0),
    )
    console = Console(width=100, file=io.StringIO(), record=True)
    show_candidates(candidates, {"[sale]x": "[bold]loud", "b[/b]": "Weird [/i] name"}, console)
    text = console.export_text()
    assert text.count("[sale]x") == 2
    assert all(written in text for written in ("b[/b]", "[bold]loud", "Weird [/i] name", "interest 2"))
