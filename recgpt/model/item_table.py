"""Item vectors, one a row; of unit length where similarity is a cosine."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

PADDING_ROW = 0


class ItemTable(nn.Embedding):
    """A table of item vectors, row 0 for padding.

    Unit vectors are made from the weights whenever they are asked for; ``plain`` makes them once and for all.

    Args:
        num_items: V.
        width: D.
        unit: divide each vector by its length (padding stays 0).
    """

    def __init__(self, num_items: int, width: int, *, unit: bool) -> None:
        super().__init__(num_items + 1, width, padding_idx=PADDING_ROW)
        self._unit = unit

    @property
    def vectors(self) -> Tensor:
        """(V + 1, D)."""
        return functional.normalize(self.weight, dim=1) if self._unit else self.weight

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors of rows: (...) int64 -> (..., D)."""
        vectors = functional.embedding(rows, self.weight, padding_idx=PADDING_ROW)
        return functional.normalize(vectors, dim=-1) if self._unit else vectors

    @torch.no_grad()
    def plain(self) -> ItemTable:
        """A table whose weights are these vectors."""
        table = ItemTable(self.num_embeddings - 1, self.embedding_dim, unit=False).to(self.weight.device)
        table.weight.copy_(self.vectors)
        return table.train(self.training)
