from __future__ import annotations

import itertools
import math
import time
from functools import partial

import numpy as np
import pytest
from tiny_model import random_checkpoint

from recgpt.backends.eager import EagerBackend
from recgpt.bench.floor import FLOOR, RecallFloor, products, time_products
from recgpt.bench.interest_contenders import FUSED, RECOMPUTE, draw_tokens
from recgpt.bench.interest_rows import Cell, Effort, measure_cell, summarise
from recgpt.bench.results import Row
from recgpt.eager import item_matrix


def make_row(name, ms, *, batch, history, ratio_to_eager=1.0, ratio_to_floor=1.0):
    facts = {"batch": batch, "history": history, "num_interests": 2}
    facts |= {"ratio_to_eager": ratio_to_eager, "ratio_to_floor": ratio_to_floor}
    return Row(name=name, facts=facts, samples_ns=(int(ms * 1e6),))


def test_the_summary_is_of_the_fused_graph_over_all_cells():
    rows = []
    for batch, history in itertools.product((1, 32, 256), (9, 49)):
        at = {"batch": batch, "history": history}
        # The floor is no contender, however fast; only with one request is another one faster.
        fused = make_row(FUSED, 2, ratio_to_eager=2.0 if batch == 1 else 8.0, ratio_to_floor=batch + history, **at)
        rows += [make_row(RECOMPUTE, 1 if batch == 1 else 9, **at), fused, make_row(FLOOR + "numpy", 0.1, **at)]
    found = summarise(rows)
    assert (found["num_cells"], found["num_cells_fused_is_fastest"]) == (6, 4)
    assert found["mean_ratio_to_eager"] == pytest.approx(math.exp((2 * math.log(2) + 4 * math.log(8)) / 6))
    assert found["typical_ratio_to_floor"] == 256 + 9
    assert found["longest_ratio_to_floor"] == 256 + 49


def test_a_cell_has_a_row_for_every_contender_and_product_and_says_how_exact_it_is():
    checkpoint = random_checkpoint()
    eager = EagerBackend(checkpoint.decoder, fused=(3,)).interests
    stranger = EagerBackend(random_checkpoint(seed=1).decoder, fused=(3,)).interests
    cell, effort = Cell(batch=4, history=5, num_interests=3), Effort(num_rounds=2, num_warmup=1, num_compared=8)
    rounds = []
    rows = measure_cell(
        {RECOMPUTE: eager, "stranger": stranger},
        checkpoint,
        cell,
        effort,
        num_threads=1,
        done=lambda: rounds.append(1),
    )
    named = {row.name: row for row in rows}
    assert list(named) == [RECOMPUTE, "stranger", FLOOR + "torch", FLOOR + "numpy", FLOOR + "onnxruntime"]
    assert len(rounds) == 3
    assert all(len(row.samples_ns) == 2 and row.facts["history"] == 5 for row in rows)
    exact = named[RECOMPUTE].facts
    assert (exact["identical_items"], exact["identical_lists"], exact["max_difference"]) == (1.0, 1.0, 0.0)
    assert named["stranger"].facts["identical_items"] < 0.5
    assert named["stranger"].facts["max_difference"] > 0.1
    assert min(row.facts["ratio_to_floor"] for row in rows) == 1.0


def test_products_are_the_scores_of_all_items_in_every_library():
    matrix = item_matrix(random_checkpoint().decoder)
    interest = np.random.default_rng(0).standard_normal((3, matrix.shape[1])).astype(np.float32)
    expected = np.einsum("bd,vd->bv", interest.astype(np.float64), matrix.astype(np.float64))
    for name, product in products(matrix, num_threads=1).items():
        np.testing.assert_allclose(np.squeeze(np.asarray(product(interest))), expected, atol=1e-4, err_msg=name)
        assert time_products(product, interest, 2).total_ns > 0


def test_the_floor_of_recall_multiplies_and_searches_by_the_fastest_at_hand():
    floor = RecallFloor(item_matrix(random_checkpoint().decoder)[1:], num_interests=3, k=5, num_threads=1)
    asked = []
    floor._products = {name: partial(pretend, asked, name, delay) for name, delay in (("slow", 0.01), ("quick", 0))}
    floor._searches = {name: partial(pretend, asked, name, delay) for name, delay in (("late", 0.01), ("soon", 0))}
    name, case = floor.case(4)
    assert name == "floor: quick; soon"
    asked.clear()
    sample = case(0)
    # J - 1 products of a batch of interests, then one search for all lists.
    assert asked == [("quick", 4), ("quick", 4), ("soon", 12, 5)]
    assert sample.total_ns == sum(sample.stages_ns.values()) > 0


def pretend(asked, name, delay_s, queries, *k):
    time.sleep(delay_s)
    asked.append((name, len(queries), *k))


def test_drawn_histories_have_the_length_asked_for_and_hold_items_of_the_training_data_alone():
    checkpoint = random_checkpoint()
    tokens = draw_tokens(checkpoint, batch=50, length=7, seed=3)
    assert tokens.item_rows.shape == (50, 7)
    assert set(tokens.lengths.tolist()) == {7}
    assert (checkpoint.popularity[tokens.item_rows] > 0).all()
    np.testing.assert_array_equal(tokens.excluded, tokens.item_rows)
