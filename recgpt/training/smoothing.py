"""Item vectors that lean on those of the items around them in the training sequences.

While a stage trains, an item's vector is its own and a share of its neighbours'. When it ends the sums become the item
vectors, so that nothing that follows knows of it. Most items occur a few times only; so they learn from all that is
known of their neighbours.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from recgpt.model.decoder import Decoder
from recgpt.model.item_table import ItemTable
from recgpt.types import Int64Array

# How far apart in a sequence two items may be to count as neighbours.
_WINDOW = 3


class Neighbours(NamedTuple):
    """A symmetric graph of items, as compressed sparse rows.

    Attributes:
        rows: (E,) int64, the neighbours of item 0 (padding, which has none), then those of item 1, ..
        weights: (E,) float32.
        offsets: (V + 1,) int64, where each item's neighbours begin.
    """

    rows: Tensor
    weights: Tensor
    offsets: Tensor

    def sums(self, vectors: Tensor) -> Tensor:
        """Weighted sums of the neighbours' vectors, (V + 1, D) -> (V + 1, D), on one device with the graph."""
        return functional.embedding_bag(self.rows, vectors, self.offsets, mode="sum", per_sample_weights=self.weights)


def neighbour_graph(train: Sequence[Int64Array], num_items: int) -> Neighbours:
    """Which items stand near each other in the training sequences, and how often.

    Two items at a distance of d positions add 1 / d to the weight A between them, in both directions.

    Source: the symmetric normalisation of LightGCN (He et al. 2020, eq. 3), for a graph of items alone:
    A_ij / sqrt(sum_k A_ik sum_k A_jk).

    Args:
        train: training items of users 1..U, oldest first.
        num_items: V.
    """
    size = num_items + 1
    pairs = [(items[:-distance], items[distance:]) for distance in range(1, _WINDOW + 1) for items in train]
    distances = np.repeat(np.arange(1, _WINDOW + 1), len(train))
    earlier, later = (np.concatenate([np.zeros(0, np.int64), *side]) for side in zip(*pairs, strict=True))
    weights = np.repeat(1 / distances, [len(items) for items, _ in pairs])
    is_other = earlier != later
    edges = np.concatenate([(earlier * size + later)[is_other], (later * size + earlier)[is_other]])
    edges, of_edge = np.unique(edges, return_inverse=True)
    weights = np.bincount(of_edge, np.tile(weights[is_other], 2), minlength=len(edges))
    items, neighbours = edges // size, edges % size
    degrees = np.bincount(items, weights, minlength=size)
    return Neighbours(
        rows=torch.from_numpy(neighbours),
        weights=torch.from_numpy(weights / np.sqrt(degrees[items] * degrees[neighbours])).float(),
        offsets=torch.from_numpy(np.searchsorted(items, np.arange(size))),
    )


@contextlib.contextmanager
def smoothed(decoder: Decoder, graph: Neighbours | None, strength: float) -> Iterator[None]:
    """Within, the decoder's item vectors are smoothed; what they are at the end they stay.

    Each vector becomes v_i + strength * sum_j A_ij v_j, where the v are unit vectors if similarity is a cosine.

    Args:
        decoder: its parameters are replaced at the beginning and at the end, so make optimizers within.
        graph: of ``neighbour_graph``; None changes nothing.
        strength: of the neighbours against the item itself.
    """
    tables = [module for module in decoder.modules() if isinstance(module, ItemTable)]
    if graph is None:
        yield
        return
    for table in tables:
        parametrize.register_parametrization(table, "weight", _Smoothing(graph, strength, unit=decoder.is_cosine))
    try:
        yield
    finally:
        for table in tables:
            parametrize.remove_parametrizations(table, "weight")


class _Smoothing(nn.Module):
    """Smoothed vectors from an item's own."""

    def __init__(self, graph: Neighbours, strength: float, *, unit: bool) -> None:
        super().__init__()
        # Not a buffer: it is known from the data, and no checkpoint needs it.
        self._graph = graph
        self._strength = strength
        self._unit = unit

    def forward(self, own: Tensor) -> Tensor:
        """(V + 1, D) -> (V + 1, D)."""
        self._graph = Neighbours(*(part.to(own.device) for part in self._graph))
        with torch.autocast(own.device.type, enabled=False):
            vectors = functional.normalize(own, dim=1) if self._unit else own
            near: Tensor = _NeighbourSums.apply(vectors, self._graph)  # type: ignore[no-untyped-call]
        return vectors + self._strength * near


class _NeighbourSums(torch.autograd.Function):
    """``Neighbours.sums``; its gradient is made in the same way, since the graph is symmetric.

    PyTorch's own gradient takes eight times as long.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, graph: Neighbours) -> Tensor:
        """(V + 1, D) -> (V + 1, D)."""
        ctx.graph = graph
        return graph.sums(vectors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """(V + 1, D) -> (V + 1, D)."""
        graph: Neighbours = ctx.graph
        return graph.sums(grad_outputs[0]), None
