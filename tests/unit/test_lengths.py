from __future__ import annotations

import itertools

import numpy as np
import pytest
from toy_model import ToyModel

from recgpt.backends.base import Tokens
from recgpt.backends.lengths import RunCost, cut_by_length, ladder, measure_run_cost, rows_of, run_in_parts

# Most of Beauty's histories are short, and a few fill the window.
LENGTHS = np.array([6, 5, 50, 4, 9, 17, 6, 31, 4, 8, 5, 44, 12, 6, 7, 5])


def cost_of(parts, cost):
    return sum(cost.call_ns + len(part) * LENGTHS[part].max() * cost.token_ns for part in parts)


def every_way(edges):
    """All ways to cut the rows between some of these lengths."""
    for number in range(len(edges) + 1):
        for chosen in itertools.combinations(edges, number):
            bounds = [0, *chosen, LENGTHS.max()]
            parts = [np.flatnonzero((low < LENGTHS) & (high >= LENGTHS)) for low, high in itertools.pairwise(bounds)]
            yield [part for part in parts if len(part)]


def mixed_tokens(model, lengths, *, num_excluded=5):
    generator = np.random.default_rng(0)
    real = np.arange(max(lengths)) < np.array(lengths)[:, None]
    shown = np.arange(num_excluded) < generator.integers(0, num_excluded + 1, len(lengths))[:, None]
    return Tokens(
        user_rows=generator.integers(0, 5, len(lengths)),
        item_rows=generator.integers(1, model.spec.num_items + 1, real.shape) * real,
        segments=generator.integers(0, 2, real.shape) * real,
        lengths=np.array(lengths),
        excluded=generator.integers(1, model.spec.num_items + 1, shown.shape) * shown,
    )


def test_widths_are_few_never_too_small_and_stop_at_the_window():
    widths = [ladder(width, 50) for width in range(1, 51)]
    assert sorted(set(widths)) == [8, 16, 32, 50]
    assert all(padded >= width for width, padded in enumerate(widths, start=1))
    assert [ladder(width) for width in (1, 8, 9, 64, 65, 1000)] == [8, 8, 16, 64, 128, 1024]
    assert ladder(60, 50) == 60


@pytest.mark.parametrize("call_ns", [0, 10, 40, 100, 1000])
def test_the_cut_is_the_cheapest_of_all_on_the_ladder(call_ns):
    cost = RunCost(call_ns=call_ns, token_ns=1.0)
    parts = cut_by_length(LENGTHS, cost)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(LENGTHS)))
    assert cost_of(parts, cost) == min(cost_of(way, cost) for way in every_way([8, 16, 32]))


def test_where_a_run_costs_much_or_a_token_nothing_the_batch_stays_whole():
    assert len(cut_by_length(LENGTHS, RunCost(call_ns=1e6, token_ns=1.0))) == 1
    assert len(cut_by_length(LENGTHS, RunCost(call_ns=1.0, token_ns=0.0))) == 1
    assert len(cut_by_length(np.full(100, 50), RunCost(call_ns=0.0, token_ns=1.0))) == 1


def test_parts_are_no_wider_than_their_rows():
    tokens = mixed_tokens(ToyModel(), [2, 6, 3])
    part = rows_of(tokens, np.array([0, 2]))
    assert part.item_rows.shape == part.segments.shape == (2, 3)
    np.testing.assert_array_equal(part.item_rows, tokens.item_rows[[0, 2], :3])
    for kept, whole in zip(part.excluded, tokens.excluded[[0, 2]], strict=True):
        assert set(kept) - {0} == set(whole) - {0}
    assert part.excluded.any(axis=0)[-1] or part.excluded.shape == (2, 1)


def test_nothing_excluded_leaves_one_column():
    tokens = mixed_tokens(ToyModel(), [2, 6], num_excluded=1)
    tokens.excluded[:] = 0
    assert rows_of(tokens, np.array([1])).excluded.shape == (1, 1)


@pytest.mark.parametrize("call_ns", [0, 15, 1000])
@pytest.mark.parametrize("num_interests", [1, 2])
def test_parts_give_the_answers_of_one_row_at_a_time_in_order(call_ns, num_interests):
    model = ToyModel(max_length=20)
    backend = model.recaller(fused=(1, 2)).backend
    tokens = mixed_tokens(model, [1, 12, 9, 19, 3, 17, 1, 8])
    runs = []

    def run(part, places):
        runs.append(part.item_rows.shape)
        np.testing.assert_array_equal(part.user_rows, tokens.user_rows[places])
        return backend.interests(part, num_interests)

    found = run_in_parts(run, tokens, RunCost(call_ns=call_ns, token_ns=1.0))
    # By hand: widths 8, 16 and 20 of the ladder hold 4, 2 and 2 rows.
    by_call = {0: [(4, 8), (2, 12), (2, 19)], 15: [(4, 8), (4, 19)], 1000: [(8, 19)]}
    assert runs == by_call[call_ns]
    for place in range(len(tokens)):
        alone = backend.interests(rows_of(tokens, np.array([place])), num_interests)
        np.testing.assert_array_equal(found.interests[place], alone.interests[0])
        np.testing.assert_array_equal(found.generated_rows[place], alone.generated_rows[0])


def test_the_cost_of_a_run_is_measured_on_valid_tokens_up_to_the_window():
    model = ToyModel(max_length=20)
    backend, shapes = model.recaller(fused=(6,)).backend, []

    def run(tokens):
        shapes.append(tokens.item_rows.shape)
        return backend.interests(tokens, 6)

    cost = measure_run_cost(run, model.spec, num_interests=6)
    assert cost.call_ns > 0
    assert cost.token_ns >= 0
    assert {width for _, width in shapes} == {8, 15}


def test_a_window_of_one_width_is_never_cut():
    model = ToyModel(max_length=4)
    backend = model.recaller(fused=(2,)).backend
    assert measure_run_cost(lambda tokens: backend.interests(tokens, 2), model.spec, num_interests=2).token_ns == 0
