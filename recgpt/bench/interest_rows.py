"""One cell of the interests benchmark: every contender and the floor in the same rounds, with how exact each one is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import geometric_mean, median

import numpy as np

from recgpt.backends.base import Tokens
from recgpt.bench.floor import FLOOR, Product, products, time_products
from recgpt.bench.interest_contenders import FUSED, RECOMPUTE, Generate, draw_tokens, time_generate
from recgpt.bench.results import Fact, Row
from recgpt.bench.timing import Case, Sample, interleave
from recgpt.eager import item_matrix
from recgpt.graphs.parity import compare_interests
from recgpt.model.checkpoint import Checkpoint

TYPICAL_HISTORY = 9
LARGE_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One setting: rows a call, items a history, interests a row."""

    batch: int
    history: int
    num_interests: int


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured of a cell: rounds that count, rounds before them, rows whose answers are compared."""

    num_rounds: int
    num_warmup: int
    num_compared: int


def measure_cell(
    generators: Mapping[str, Generate],
    checkpoint: Checkpoint,
    cell: Cell,
    effort: Effort,
    *,
    num_threads: int,
    done: Callable[[], None],
) -> list[Row]:
    """Times all contenders, ``RECOMPUTE`` among them, and the floor.

    Returns:
        A row each, with the cell's setting, ``ratio_to_eager`` (how many times as fast), ``ratio_to_floor`` (how many
        times as long as the fastest product) and, of contenders, how far they agree with ``RECOMPUTE``.
    """
    batches = [
        draw_tokens(checkpoint, batch=cell.batch, length=cell.history, seed=seed) for seed in range(effort.num_rounds)
    ]
    cases = _cases(generators, checkpoint, cell, batches, num_threads)
    compared = batches[: max(1, effort.num_compared // cell.batch)]
    exactness = {
        name: _exactness(generate, generators[RECOMPUTE], checkpoint, compared, cell.num_interests)
        for name, generate in generators.items()
    }
    samples = interleave(cases, num_rounds=effort.num_rounds, num_warmup=effort.num_warmup, done=done)
    medians = {name: median(sample.total_ns for sample in taken) for name, taken in samples.items()}
    floor = min(value for name, value in medians.items() if name.startswith(FLOOR))
    return [
        Row.of(
            name,
            {
                **vars(cell),
                "ratio_to_eager": medians[RECOMPUTE] / medians[name],
                "ratio_to_floor": medians[name] / floor,
                **exactness.get(name, {}),
            },
            taken,
        )
        for name, taken in samples.items()
    ]


def summarise(rows: Sequence[Row]) -> dict[str, float]:
    """What the cells say together about the fused graph; ratios to the floor are the worst of large batches."""
    cells: dict[Cell, dict[str, float]] = {}
    for row in rows:
        cells.setdefault(cell_of(row), {})[row.name] = row.latency_ms["p50"]
    fused = {cell_of(row): row.facts for row in rows if row.name == FUSED}
    ratios = {cell: float(facts["ratio_to_floor"] or math.nan) for cell, facts in fused.items()}
    large = {cell: ratio for cell, ratio in ratios.items() if cell.batch >= LARGE_BATCH}
    return {
        "num_cells": len(cells),
        "num_cells_fused_is_fastest": sum(
            min((name for name in found if not name.startswith(FLOOR)), key=lambda name: found[name]) == FUSED
            for found in cells.values()
        ),
        "mean_ratio_to_eager": geometric_mean(float(facts["ratio_to_eager"] or math.nan) for facts in fused.values()),
        "typical_ratio_to_floor": max((r for c, r in large.items() if c.history == TYPICAL_HISTORY), default=math.nan),
        "longest_ratio_to_floor": max((r for c, r in large.items() if c.history != TYPICAL_HISTORY), default=math.nan),
    }


def cell_of(row: Row) -> Cell:
    """The setting that a row of ``measure_cell`` was measured under."""
    return Cell(**{name: int(row.facts[name] or 0) for name in ("batch", "history", "num_interests")})


def _cases(
    generators: Mapping[str, Generate], checkpoint: Checkpoint, cell: Cell, batches: Sequence[Tokens], num_threads: int
) -> dict[str, Case]:
    def call(generate: Generate, number: int) -> Sample:
        return time_generate(generate, batches[number], cell.num_interests)

    def multiply(product: Product, number: int) -> Sample:
        return time_products(product, interest, cell.num_interests - 1)

    cases: dict[str, Case] = {name: partial(call, generate) for name, generate in generators.items()}
    width = checkpoint.decoder.config.hidden_size
    interest = np.random.default_rng(0).standard_normal((cell.batch, width)).astype(np.float32)
    for name, product in products(item_matrix(checkpoint.decoder), num_threads=num_threads).items():
        cases[FLOOR + name] = partial(multiply, product)
    return cases


def _exactness(
    generate: Generate, reference: Generate, checkpoint: Checkpoint, batches: Sequence[Tokens], num_interests: int
) -> dict[str, Fact]:
    matrix = item_matrix(checkpoint.decoder)
    reports = [
        compare_interests(tokens, reference(tokens, num_interests), generate(tokens, num_interests), item_matrix=matrix)
        for tokens in batches
    ]
    return {
        "identical_items": float(np.mean([report.generated_agreement for report in reports])),
        "identical_lists": float(np.mean([report.top_k_agreement for report in reports])),
        "max_difference": max(max(report.differences.values()) for report in reports),
    }
