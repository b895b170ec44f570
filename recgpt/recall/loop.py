"""The autoregressive loop with the item index inside: interest, search, interest, search, ..

The item that is fed back after a step is the best unseen one of that step's own search, so no graph looks through the
catalogue. Each step runs the graph of one interest on the grown history. A KV cache would save the earlier tokens, but
handing it in and out costs more than the last block, which asks for one position, takes for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from recgpt.asking import Steps
from recgpt.backends.asks import Interest, Interests, Search
from recgpt.backends.base import InterestsOutput, Model, Tokens
from recgpt.recall.index import ItemIndex
from recgpt.recall.merge import taken_by_quotas
from recgpt.types import PROMPT, Float32Array, Int64Array

_List = tuple[Int64Array, Float32Array]


def search_in_loop(
    model: Model,
    index: ItemIndex,
    tokens: Tokens,
    num_interests: int,
    *,
    depth: int,
    excluded: Int64Array,
    quotas: Int64Array | None,
    lap: Callable[[str], None] = lambda stage: None,
) -> Steps[tuple[InterestsOutput, Int64Array, Float32Array]]:
    """J interests a row and what each of them finds; the same answer as interests first and all searches then.

    Args:
        model: sizes and fused graphs of the model that answers.
        index: of the same export; only its rows are read here.
        tokens: histories of at most C - (J - 1) tokens.
        num_interests: J, at least 1.
        depth: how many items each step looks up.
        excluded: (B, E) int64 rows that are not to be found, 0 for none; all of ``tokens.excluded`` that the index has
            are among them.
        quotas: (B, J) by which lists are merged. The last step feeds nothing back, so it looks up only as many as are
            taken from it, among what is not taken from the others. None if it has to look up as many as they.
        lap: told ``interests`` or ``search`` when such a stage ends.

    Returns:
        The interests and generated rows, as ``Backend.interests``, and rows (B, J, depth) and scores of the searches.
    """
    interests: list[Float32Array] = []
    found: list[tuple[Int64Array, Float32Array]] = []
    generated = np.zeros((len(tokens), 0), dtype=np.int64)
    # No graph generates anything here, so to none of them it matters what must not be.
    grown = replace(tokens, excluded=tokens.excluded[:, :1])
    for step in range(num_interests):
        interests.append((yield from _interest(model, grown)))
        lap("interests")
        is_last = step == num_interests - 1
        if is_last and found and quotas is not None:
            found.append((yield from _new_ones(interests[-1], found, quotas, excluded)))
        else:
            found.append((yield from Search(interests[-1], depth, excluded=excluded)))
        if not is_last:
            newest = yield from _best(index, interests[-1], *found[-1], excluded, generated, model.spec.num_items)
            generated = np.concatenate([generated, newest[:, None]], axis=1)
            grown = append(grown, newest)
        lap("search")
    output = InterestsOutput(interests=np.stack(interests, axis=1), generated_rows=generated)
    return output, *_stacked(found)


def append(tokens: Tokens, rows: Int64Array) -> Tokens:
    """Histories (B, T) with one more token each, of segment 1, behind the real ones: (B, T + 1)."""
    wider = tokens.padded(tokens.item_rows.shape[1] + 1, 1)
    places = tokens.lengths[:, None]
    np.put_along_axis(wider.item_rows, places, rows[:, None], axis=1)
    np.put_along_axis(wider.segments, places, PROMPT, axis=1)
    return replace(wider, lengths=tokens.lengths + 1)


def _interest(model: Model, tokens: Tokens) -> Steps[Float32Array]:
    # The graph of one interest looks for no item; prefill does, asked or not.
    if 1 not in model.fused:
        return (yield from Interest(tokens))
    output = yield from Interests(tokens, 1)
    return output.interests[:, 0]


def _new_ones(interests: Float32Array, found: list[_List], quotas: Int64Array, excluded: Int64Array) -> Steps[_List]:
    """What interests (B, D) of the last step find beyond what is taken from the steps before it, as wide as theirs."""
    rows, scores = _stacked(found)
    taken = np.where(taken_by_quotas(rows, scores, quotas[:, :-1]), rows, 0).reshape(len(rows), -1)
    number = int(quotas[:, -1].max())
    new, its_scores = yield from Search(interests, number, excluded=np.concatenate([excluded, taken], axis=1))
    behind = ((0, 0), (0, rows.shape[2] - new.shape[1]))
    return np.pad(new, behind), np.pad(its_scores, behind, constant_values=-np.inf)


def _stacked(found: list[_List]) -> _List:
    """The steps' lists, rows and scores, both (B, steps, N)."""
    return np.stack([rows for rows, _ in found], axis=1), np.stack([scores for _, scores in found], axis=1)


def _best(
    index: ItemIndex,
    interest: Float32Array,
    rows: Int64Array,
    scores: Float32Array,
    excluded: Int64Array,
    generated: Int64Array,
    num_modelled: int,
) -> Steps[Int64Array]:
    """The best row of each list, found without ``excluded``, that the model knows and that is not generated; (B,)."""
    may = (rows <= num_modelled) & np.isfinite(scores)
    for column in generated.T:
        may &= rows != column[:, None]
    best = np.take_along_axis(rows, may.argmax(axis=1)[:, None], axis=1)[:, 0]
    for query in np.flatnonzero(~may.any(axis=1)):
        # The list holds nothing but items that were added after the training, or that were generated before.
        added = index.rows[index.rows > num_modelled]
        wide = np.concatenate([excluded[query], generated[query], added])[None]
        rows_found, _ = yield from Search(interest[query : query + 1], 1, excluded=wide)
        best[query] = rows_found[0, 0]
    return best
