"""The plainest two-step recall, to compare with: eager PyTorch, all tokens again for each step, and ``torch.topk``."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recgpt.backends.eager import EagerBackend
from recgpt.eager import catalogue_of, item_matrix
from recgpt.model.checkpoint import Checkpoint
from recgpt.recall.index import ItemIndex
from recgpt.recall.recaller import Recaller
from recgpt.types import Float32Array, Int64Array


def topk_recaller(checkpoint: Checkpoint, *, num_interests: int, num_threads: int) -> Recaller:
    """A recaller by PyTorch alone, whose threads it sets for the whole process."""
    torch.set_num_threads(num_threads)
    return Recaller(
        EagerBackend(checkpoint.decoder, fused=(num_interests,)),
        TopKIndex.build(item_matrix(checkpoint.decoder), num_threads=num_threads),
        catalogue_of(checkpoint),
        prompt_tuned=checkpoint.training.is_prompt_tuned,
    )


class TopKIndex(ItemIndex):
    """Searches all rows by one product and ``torch.topk``; which of equal scores comes first is left to that."""

    def search(
        self, queries: Float32Array, k: int, among: Int64Array | None = None, *, excluded: Int64Array | None = None
    ) -> tuple[Int64Array, Float32Array]:
        """As of ``ItemIndex``, but for ties."""
        if among is not None:
            return super().search(queries, k, among)
        with torch.inference_mode():
            scores = torch.from_numpy(np.ascontiguousarray(queries)) @ self._columns
            scores[:, 0] = -torch.inf
            if excluded is not None:
                scores.scatter_(1, torch.from_numpy(excluded), -torch.inf)
            values, rows = scores.topk(min(k, self.num_items), dim=1)
        return rows.numpy(), values.numpy()

    @cached_property
    def _columns(self) -> Tensor:
        """(D, V + 1), a column a row of the item matrix, the first being padding."""
        vectors = self.vectors()
        return torch.from_numpy(np.concatenate([np.zeros_like(vectors[:1]), vectors])).T
