"""Operators that PyTorch has in many parts or not at all, and their forms in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import DTypeLike
from onnxscript import opset20
from torch import Tensor, nn

from recgpt.recall.scan import BLOCK, ZERO, Rounding, scan, settle


@torch.library.custom_op("recgpt::scan_scores", mutates_args=())
def scan_scores(queries: Tensor, matrix: Tensor) -> Tensor:
    """Products of uint8 queries (B, D), whose zero is ``ZERO``, with an int8 matrix (D, N): (B, N) int32."""
    return (queries.int() - ZERO) @ matrix.int()


@scan_scores.register_fake
def _(queries: Tensor, matrix: Tensor) -> Tensor:
    return queries.new_empty((queries.shape[0], matrix.shape[1]), dtype=torch.int32)


@torch.library.custom_op("recgpt::take", mutates_args=())
def take(blocks: Tensor, places: Tensor) -> Tensor:
    """Of each row's blocks (B, N, W) those at places (B, K) int64: (B, K, W)."""
    return blocks.gather(1, places.unsqueeze(2).expand(-1, -1, blocks.shape[2]))


@take.register_fake
def _(blocks: Tensor, places: Tensor) -> Tensor:
    return blocks.new_empty((*places.shape, blocks.shape[2]))


@torch.library.custom_op("recgpt::leading", mutates_args=())
def leading(scores: Tensor, wanted: Tensor, block: int, number: int) -> tuple[Tensor, Tensor]:
    """The best of each row, as many as are wanted, which is known only when it runs.

    Args:
        scores: (B, N) float32, N whole blocks, at least ``number`` of them.
        wanted: (1,) int64, 1 to ``number``.
        block: scores that are looked at by their maximum first.
        number: of the columns that are returned.

    Returns:
        columns (B, number) int64 and scores likewise, best first, the lower column first among equals; column 0 and
        score -inf behind as many as are wanted.
    """
    values, columns = (found[:, :number] for found in scores.sort(dim=1, descending=True, stable=True))
    is_behind = torch.arange(number) >= wanted
    return columns.masked_fill(is_behind, 0), values.masked_fill(is_behind, -torch.inf)


@leading.register_fake
def _(scores: Tensor, wanted: Tensor, block: int, number: int) -> tuple[Tensor, Tensor]:
    shape = (scores.shape[0], number)
    return scores.new_empty(shape, dtype=torch.int64), scores.new_empty(shape)


@torch.library.custom_op("recgpt::scan_leading", mutates_args=())
def scan_leading(
    queries: Tensor,
    vectors: Tensor,
    matrix: Tensor,
    excluded: Tensor,
    wanted: Tensor,
    step: float,
    longest: float,
    lost: float,
    number: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best vectors for each query, of all scores here, and by ``recgpt.recall.scan`` in ONNX.

    Args:
        queries: (B, D) float32.
        vectors: (V, D) float32.
        matrix: (D, N) int8, the same vectors and more columns, rounded by ``RoundedItems``.
        excluded: (B, E) int64 columns of the matrix, those that are no vectors among them.
        wanted: (1,) int64, 1 to ``number``, and at most N / ``BLOCK``.
        step: see ``Rounding``, as of ``longest`` and ``lost``.
        longest: see there.
        lost: see there.
        number: of the vectors that are returned.

    Returns:
        columns and scores as of ``leading``, and whether nothing can be missing, () bool; see ``settle``.
    """
    scores = queries @ nn.functional.pad(vectors, (0, 0, 0, matrix.shape[1] - len(vectors))).T
    columns, values = leading(scores.scatter(1, excluded, -torch.inf), wanted, 1, number)
    return columns, values, torch.tensor(True)


@scan_leading.register_fake
def _(queries: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    shape = (queries.shape[0], others[-1])
    return (
        queries.new_empty(shape, dtype=torch.int64),
        queries.new_empty(shape),
        queries.new_empty((), dtype=torch.bool),
    )


def _scan_scores_onnx(queries: Any, matrix: Any) -> Any:
    return opset20.MatMulInteger(queries, matrix, _constant(ZERO, np.uint8))


def _take_onnx(blocks: Any, places: Any) -> Any:
    return opset20.GatherND(blocks, opset20.Unsqueeze(places, _constant([2])), batch_dims=1)


def _leading_onnx(scores: Any, wanted: Any, block: int, number: int) -> tuple[Any, Any]:
    """They lie in the blocks with the best maxima, of equal maxima the lower blocks, as many blocks as are wanted.

    Before a further block there would be that many with a better column each. Of these blocks, in their order, the best
    columns are taken: of equal values TopK takes the one at the lower place.
    """
    op = opset20
    blocks = op.Reshape(scores, _constant([0, -1, block]))
    _, chosen = op.TopK(op.ReduceMax(blocks, _constant([2]), keepdims=0), wanted, axis=1)
    chosen, _ = op.TopK(chosen, wanted, axis=1, largest=0)
    inside = op.Reshape(_take_onnx(blocks, chosen), _constant([0, -1]))
    values, places = op.TopK(inside, wanted, axis=1)
    block_of = op.GatherElements(chosen, op.Div(places, _constant(block)), axis=1)
    return _padded(op.Add(op.Mul(block_of, _constant(block)), op.Mod(places, _constant(block))), values, wanted, number)


class _Operators:
    """As ``recgpt.recall.scan`` wants them."""

    def __getattr__(self, op: str) -> Callable[..., Any]:
        written: Callable[..., Any] = getattr(opset20, op)
        return written

    @staticmethod
    def constant(value: Any, dtype: DTypeLike) -> Any:
        return _constant(value, dtype)


def _scan_leading_onnx(
    queries: Any,
    vectors: Any,
    matrix: Any,
    excluded: Any,
    wanted: Any,
    step: float,
    longest: float,
    lost: float,
    number: int,
) -> tuple[Any, Any, Any]:
    op = _Operators()
    num_blocks = matrix.shape[1] // BLOCK
    # All that is no vector is excluded, so all blocks are whole.
    scanned = scan(
        op,
        queries,
        matrix,
        excluded,
        wanted,
        Rounding(step, longest, lost),
        num_blocks=num_blocks,
        num_whole=num_blocks,
    )
    columns, scores, is_whole = settle(op, queries, vectors, scanned, wanted, num_blocks=num_blocks)
    return (*_padded(columns, scores, wanted, number), is_whole)


def _padded(columns: Any, values: Any, wanted: Any, number: int) -> tuple[Any, Any]:
    behind = opset20.Concat(_constant([0, 0, 0]), opset20.Sub(_constant([number]), wanted), axis=0)
    return opset20.Pad(columns, behind, _constant(0)), opset20.Pad(values, behind, _constant(-np.inf, np.float32))


def _constant(value: Any, dtype: DTypeLike = np.int64) -> Any:
    return opset20.Constant(value=onnx.numpy_helper.from_array(np.array(value, dtype=dtype)))


TRANSLATIONS: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.recgpt.scan_scores.default: _scan_scores_onnx,
    torch.ops.recgpt.take.default: _take_onnx,
    torch.ops.recgpt.leading.default: _leading_onnx,
    torch.ops.recgpt.scan_leading.default: _scan_leading_onnx,
}
"""What makes the form in ONNX, by the operator, as ``torch.onnx.export`` takes them."""
