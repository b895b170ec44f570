"""A scan of all items in 8 bits, as operators of ONNX, and what it proves: which items may be among the best.

A score s = q . x becomes the whole number Q . X, where x = a X + r with one step a for all items and q = b Q + t with a
step b for each query. By Cauchy and Schwarz

    |s - a b Q . X|  =  |q . r + t . (a X)|  <=  |q| max |r| + |t| max |a X|  =  e

k items whose scanned scores are at least m make the k-th best exact score at least m - e, so every item of the answer
has a scanned score of at least m - 2 e. Those that have are in doubt, and to be scored exactly; nothing can be missed,
whatever the vectors. The scan reads a quarter of the bytes of a float search and multiplies whole numbers.

Knows vectors and columns. Whoever writes a graph gives the operators: as methods by their names in ONNX, and
``constant`` for arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recgpt.types import Float32Array

BLOCK = 64
"""Columns a block. m is the k-th best of the blocks' maxima, which are far fewer to sort than the scores."""

NEVER = -(2**30)
"""The score of what is excluded: below all products of bytes that fit, and so is a margin below the best of them."""

ZERO = 64
"""Stands for 0 in a query. Queries use 7 bits: with 8, processors without VNNI instructions overflow."""

_MAX_MARGIN = 2**29

# The least that a query's largest number counts as, so that its step has an inverse.
_TINY = 2.0**-120

# Float32 sums of D products are off by at most D of these, relative to |q| |x|; so are what the bound is made of.
_ROUNDING = 2.0**-22

# Lists of more than one item in so many: with their length grows what is in doubt, until a scan is the slower way.
_MIN_ITEMS_PER_FOUND = 512

# Items of a batch that are scored exactly at once: both vectors of each and their products are held in memory.
_MAX_PAIRS = 1 << 16

# Vectors that are rounded at once, so that a large catalogue needs no second copy of its matrix.
_ROUNDED = 1 << 18

# Element types of ONNX.
_UINT8, _INT32 = 2, 6


class Rounding(NamedTuple):
    """What scores of rounded items can be off by.

    Attributes:
        step: a.
        longest: max |a X|.
        lost: max |r|, and what float32 loses besides in a score, relative to |q|.
    """

    step: float
    longest: float
    lost: float


@dataclass(frozen=True, eq=False)
class RoundedItems:
    """Item vectors in 8 bits.

    Attributes:
        matrix: (D, N) int8, X; one column a vector, then zeros.
        rounding: what was lost.
    """

    matrix: NDArray[np.int8]
    rounding: Rounding

    @classmethod
    def of(cls, vectors: Float32Array, num_columns: int) -> RoundedItems:
        """Rounds vectors (V, D) to a matrix with N = ``num_columns`` columns, V or more in whole blocks."""
        num_items, size = vectors.shape
        largest = max(float(vectors.max(initial=0)), -float(vectors.min(initial=0)))
        step = max(largest, float(np.finfo(np.float32).tiny)) / 127
        longest = lost = 0.0
        matrix = np.zeros((size, num_columns), dtype=np.int8)
        for start in range(0, num_items, _ROUNDED):
            part = vectors[start : start + _ROUNDED]
            rounded = np.round(part / np.float32(step))
            kept = rounded * np.float32(step)
            longest, lost = max(longest, _longest(kept)), max(lost, _longest(part - kept))
            matrix[:, start : start + len(part)] = rounded.T
        return cls(matrix, Rounding(step, longest, lost + size * _ROUNDING * longest))


class Scanned(NamedTuple):
    """What a scan found, each a value of the graph.

    Attributes:
        blocks: (B, N / BLOCK, BLOCK) int32, Q . X, and ``NEVER`` for what is excluded.
        lowest: (B, 1) int32, m - 2 e; ``NEVER`` + 1 where fewer than k blocks hold anything.
        has_doubt: (B, N / BLOCK) bool, blocks with a score of at least ``lowest``.
    """

    blocks: Any
    lowest: Any
    has_doubt: Any


def most_scanned(num_items: int) -> int:
    """The longest list for which graphs scan so many items; 0 for too few items."""
    return num_items // _MIN_ITEMS_PER_FOUND


def scan(
    op: Any,
    queries: Any,
    matrix: Any,
    excluded: Any,
    wanted: Any,
    rounding: Rounding,
    *,
    num_blocks: int,
    num_whole: int,
) -> Scanned:
    """Writes the scan.

    Args:
        op: writes operators.
        queries: (B, D) float32.
        matrix: (D, N) int8, of ``RoundedItems``.
        excluded: (B, E) int64 columns.
        wanted: (1,) int64, k, at most as many as there are blocks.
        rounding: of the same.
        num_blocks: N / BLOCK.
        num_whole: of these, the first blocks, in which no column but excluded ones is no item.
    """
    largest = op.Max(op.ReduceMax(op.Abs(queries), _axis(op, 1), keepdims=1), _float(op, _TINY))
    steps_in_one = op.Div(_float(op, ZERO - 1), largest)
    in_steps = op.Mul(queries, steps_in_one)
    rounded = op.Round(in_steps)
    # 2 e in units of a b
    by_items = op.Mul(op.Mul(_length(op, queries), steps_in_one), _float(op, 2 * rounding.lost / rounding.step))
    by_query = op.Mul(_length(op, op.Sub(in_steps, rounded)), _float(op, 2 * rounding.longest / rounding.step))
    margin = op.Ceil(op.Add(by_items, by_query))
    margin = op.Where(op.Less(margin, _float(op, _MAX_MARGIN)), margin, _float(op, _MAX_MARGIN))
    whole_numbers = op.Cast(op.Add(rounded, _float(op, ZERO)), to=_UINT8)
    products = op.MatMulInteger(whole_numbers, matrix, op.constant(ZERO, np.uint8))
    nevers = op.Expand(op.constant([NEVER], np.int32), op.Shape(excluded))
    scores = op.ScatterElements(products, excluded, nevers, axis=1)
    blocks = op.Reshape(scores, op.constant([-1, num_blocks, BLOCK], np.int64))
    maxima = op.ReduceMax(blocks, _axis(op, 2), keepdims=0)
    whole = maxima if num_whole == num_blocks else _columns(op, maxima, 0, num_whole)
    best, _ = op.TopK(whole, wanted, axis=1)
    kth = _columns(op, best, -1, num_blocks)
    lowest = op.Max(op.Sub(kth, op.Cast(margin, to=_INT32)), op.constant([NEVER + 1], np.int32))
    return Scanned(blocks, lowest, op.GreaterOrEqual(maxima, lowest))


def blocks_in_doubt(op: Any, scanned: Scanned, *, num_blocks: int) -> tuple[Any, Any]:
    """Writes which columns are in doubt.

    Returns:
        numbers: (M,) int64, ascending: query times ``num_blocks`` plus block, of each block that has a doubt.
        in_doubt: (M, BLOCK) bool.
    """
    has_doubt = op.Reshape(scanned.has_doubt, _axis(op, -1))
    numbers = op.Compress(_count(op, has_doubt), has_doubt)
    scores = op.Gather(op.Reshape(scanned.blocks, op.constant([-1, BLOCK], np.int64)), numbers, axis=0)
    queries = op.Div(numbers, op.constant(num_blocks, np.int64))
    return numbers, op.GreaterOrEqual(scores, op.Gather(scanned.lowest, queries, axis=0))


def settle(
    op: Any, queries: Any, vectors: Any, scanned: Scanned, wanted: Any, *, num_blocks: int
) -> tuple[Any, Any, Any]:
    """Writes exact scores of all that is in doubt, and the best of each query.

    Args:
        op: writes operators.
        queries: (B, D) float32.
        vectors: (V, D) float32.
        scanned: of the same queries and vectors.
        wanted: (1,) int64, k.
        num_blocks: N / BLOCK.

    Returns:
        columns (B, k) int64 and scores (B, k) float32, best first, the lower column first among equals; column 0 and
        -inf behind the last that is not excluded; and a bool, whether that is so: not where so many are in doubt that
        not all were scored.
    """
    numbers, in_doubt = blocks_in_doubt(op, scanned, num_blocks=num_blocks)
    in_doubt = op.Reshape(in_doubt, _axis(op, -1))
    all_places = op.Compress(_count(op, in_doubt), in_doubt)
    places = op.Slice(all_places, _axis(op, 0), op.constant([_MAX_PAIRS], np.int64))
    # From a place among the blocks that have a doubt to one among all.
    shifts = op.Mul(op.Sub(numbers, _count(op, numbers)), op.constant(BLOCK, np.int64))
    shift = op.Gather(shifts, op.Div(places, op.constant(BLOCK, np.int64)), axis=0)
    pairs, num_columns = op.Add(places, shift), op.constant(num_blocks * BLOCK, np.int64)
    query, column = op.Div(pairs, num_columns), op.Mod(pairs, num_columns)
    # Products one by one: a matrix product may give equal vectors scores that differ in the last bit.
    products = op.Mul(op.Gather(queries, query, axis=0), op.Gather(vectors, column, axis=0))
    scores = op.ReduceSum(products, _axis(op, 1), keepdims=0)
    # Each query's scores become a row, as wide as the longest.
    number, batch = op.Shape(pairs), op.Shape(queries, start=0, end=1)
    ones = op.Expand(op.constant([1], np.int64), number)
    of_each = op.ScatterElements(op.Expand(op.constant([0], np.int64), batch), query, ones, axis=0, reduction="add")
    width = op.Max(op.ReduceMax(of_each, _axis(op, 0), keepdims=1), wanted)
    first = op.CumSum(of_each, op.constant(0, np.int64), exclusive=1)
    gaps = op.CumSum(op.Sub(width, of_each), op.constant(0, np.int64), exclusive=1)
    places = op.Add(op.Gather(gaps, query, axis=0), _count(op, pairs))
    nothing = op.Expand(_float(op, -np.inf), op.Mul(batch, width))
    rows = op.Reshape(op.ScatterElements(nothing, places, scores, axis=0), op.Concat(batch, width, axis=0))
    best, places = op.TopK(rows, wanted, axis=1)
    found = op.Where(op.IsInf(best), number, op.Add(places, op.Unsqueeze(first, _axis(op, 1))))
    columns = op.Gather(op.Concat(column, op.constant([0], np.int64), axis=0), found, axis=0)
    return columns, best, op.LessOrEqual(op.Size(all_places), op.constant(_MAX_PAIRS, np.int64))


def _length(op: Any, vectors: Any) -> Any:
    return op.ReduceL2(vectors, _axis(op, 1), keepdims=1)


def _columns(op: Any, matrix: Any, start: int, end: int) -> Any:
    return op.Slice(matrix, op.constant([start], np.int64), op.constant([end], np.int64), _axis(op, 1))


def _count(op: Any, values: Any) -> Any:
    """0, 1, .. for each of values (N,)."""
    return op.Range(op.constant(0, np.int64), op.Size(values), op.constant(1, np.int64))


def _axis(op: Any, axis: int) -> Any:
    return op.constant([axis], np.int64)


def _float(op: Any, value: float) -> Any:
    return op.constant([value], np.float32)


def _longest(vectors: Float32Array) -> float:
    return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors)).max(initial=0))
