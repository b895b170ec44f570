"""Item vectors, one a row; of unit length where similarity is a cosine."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional

PADDING_ROW = 0


class ItemTable(nn.Embedding):
    """A table of item vectors, row 0 for padding.

    Unit vectors are made from the weights again and again while training, and once when evaluation begins: serving and
    export see a plain table.

    Args:
        num_items: V.
        width: D.
        unit: keep the vectors at length 1, by dividing each by its length (padding stays 0).
    """

    _fixed: Tensor | None

    def __init__(self, num_items: int, width: int, *, unit: bool) -> None:
        super().__init__(num_items + 1, width, padding_idx=PADDING_ROW)
        self._unit = unit
        self.register_buffer("_fixed", None, persistent=False)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.train(self.training)

    @property
    def vectors(self) -> Tensor:
        """(V + 1, D)."""
        # Asks for the mode itself, since some trainers set it without calling train().
        if self._fixed is not None and not self.training:
            return self._fixed
        return functional.normalize(self.weight, dim=1) if self._unit else self.weight

    def forward(self, rows: Tensor) -> Tensor:
        """Vectors of rows: (...) int64 -> (..., D)."""
        return functional.embedding(rows, self.vectors)

    def train(self, mode: bool = True) -> Self:
        """Begins training, or evaluation, for which the vectors are fixed."""
        self._fixed = None
        if self._unit and not mode:
            self._fixed = self.vectors.detach()
        return super().train(mode)
