"""``recall_J`` as a PyTorch module: interests, exact search of the whole catalogue, and merge by quotas in one graph.

Ties go to the lower row, by ONNX's rule that of equal values TopK takes the one at the lower place. PyTorch's own topk
promises no such thing, so this module is to be exported, not run.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recgpt.graphs.modules import Decode, Interests, NextItem, Prefill, argmax
from recgpt.model.decoder import Decoder
from recgpt.model.item_table import PADDING_ROW
from recgpt.signature import MAX_RECALLED, recall_spec


class Recall(nn.Module):
    """``recall_J``: a history and J quotas in, rows, scores and steps of the recalled items out.

    Step j's list is the best of what is neither excluded nor taken by an earlier step. The scores of a step serve both
    its list and the item that is fed back, so there are J exact products with the catalogue and nothing else.

    Args:
        decoder: the model.
        num_interests: J.
        max_recalled: K; cut to the catalogue.
    """

    def __init__(self, decoder: Decoder, num_interests: int, *, max_recalled: int = MAX_RECALLED) -> None:
        super().__init__()
        self.spec = recall_spec(num_interests)
        self.decoder = decoder
        # As every graph has one; this one chooses by the scores that it needs anyway.
        self.next_item: nn.Module = NextItem(decoder)
        self.steps = Interests(decoder, num_interests)
        self.num_recalled = min(max_recalled, decoder.num_items)

    def forward(
        self,
        user_ids: Tensor,
        input_ids: Tensor,
        segment_ids: Tensor,
        lengths: Tensor,
        excluded_ids: Tensor,
        quotas: Tensor,
    ) -> tuple[Tensor, ...]:
        """Shapes as in ``recgpt.signature.recall_spec``."""
        scores: list[Tensor] = []

        def best(interest: Tensor, generated: list[Tensor]) -> Tensor:
            scores.append(self._scores(interest, excluded_ids))
            return argmax(_without(scores[-1], generated), self.decoder.num_items + 1)

        interests, generated = self.steps.unroll(user_ids, input_ids, segment_ids, lengths, best)
        scores.append(self._scores(interests[-1], excluded_ids))
        slots = torch.arange(self.num_recalled, device=quotas.device).unsqueeze(0)
        lists: list[tuple[Tensor, Tensor]] = []
        taken: list[Tensor] = []
        for step, found in enumerate(scores):
            lists.append(self._best(_without(found, taken)))
            # Row 0 stands for none.
            taken.append(lists[-1][0] * (slots < quotas[:, step : step + 1]))
        merged = _merge([rows for rows, _ in lists], [values for _, values in lists], quotas, slots)
        return (*merged, torch.cat(generated, dim=1)) if generated else merged

    def _scores(self, interest: Tensor, excluded: Tensor) -> Tensor:
        """Scores of all rows (B, V + 1); minus infinity for padding and excluded rows."""
        padding = torch.full_like(excluded[:, :1], PADDING_ROW)
        return _without(interest @ self.decoder.item_matrix.T, [padding, excluded])

    def _best(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The K best rows and their scores, both (B, K), best first, the lower row first among equals.

        They lie in the K blocks with the best maxima, of equal maxima the lower blocks: before a further block there
        would be K blocks with a better item each. Of these blocks, in the order of their rows, K are taken.
        """
        num_rows, k = scores.shape[1], self.num_recalled
        size = _block_size(num_rows, k)
        if size == 1:
            values, rows = scores.topk(k, dim=1)
            return rows, values
        num_blocks = -(-num_rows // size)
        filled_up = nn.functional.pad(scores, (0, num_blocks * size - num_rows), value=-torch.inf)
        blocks = filled_up.reshape(-1, num_blocks, size)
        chosen = blocks.amax(dim=2).topk(k, dim=1).indices
        chosen = chosen.sort(dim=1).values
        values, places = blocks.gather(1, chosen.unsqueeze(2).expand(-1, k, size)).flatten(1).topk(k, dim=1)
        # Rounding towards zero is one operator of ONNX, and these numbers are positive.
        block = chosen.gather(1, torch.div(places, size, rounding_mode="trunc"))
        return block * size + places % size, values


Graph = Prefill | Decode | Interests | Recall
"""Any graph that can be exported; has ``spec``, ``decoder`` and ``next_item``."""


def _block_size(num_rows: int, k: int) -> int:
    """The power of two with which maxima of blocks and columns of k blocks are the fewest together; 1 for no blocks."""
    size = 2 ** round(math.log2(max(math.sqrt(num_rows / k), 1)))
    return size if k <= -(-num_rows // size) and num_rows / size + k * size < num_rows / 2 else 1


def _without(scores: Tensor, rows: list[Tensor]) -> Tensor:
    return scores.scatter(1, torch.cat(rows, dim=1), -torch.inf) if rows else scores


def _merge(rows: list[Tensor], scores: list[Tensor], quotas: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first quota of each step's list, one behind the other: J of (B, K) -> rows, scores, steps, each (B, K)."""
    num_steps, width = len(rows), slots.shape[1]
    ends = quotas.cumsum(dim=1)
    step = (slots.unsqueeze(2) >= ends.unsqueeze(1)).sum(dim=2)
    is_taken = step < num_steps
    step = step.clamp_max(num_steps - 1)
    place = step * width + slots - (ends - quotas).gather(1, step)
    found, values = torch.cat(rows, dim=1).gather(1, place), torch.cat(scores, dim=1).gather(1, place)
    # Where a caller asks for more than there is, nothing is given rather than what was excluded.
    is_taken = is_taken & (values > -torch.inf)
    return found * is_taken, values.masked_fill(~is_taken, 0.0), (step + 1) * is_taken
