"""``recall_J`` as a PyTorch module: interests, exact search of the whole catalogue, and merge by quotas in one graph.

Ties go to the lower row, by ONNX's rule that of equal values TopK takes the one at the lower place. PyTorch's own topk
promises no such thing, so this module is to be exported, not run.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recgpt.graphs.modules import Decode, Interests, NextItem, Prefill
from recgpt.graphs.operators import leading
from recgpt.model.decoder import Decoder
from recgpt.model.item_table import PADDING_ROW
from recgpt.signature import MAX_RECALLED, recall_spec

# Scores that are looked at by their maximum first. With 32 there is little to sort for lists of 10 and of 100 items.
_MAX_BLOCK = 32


class Recall(nn.Module):
    """``recall_J``: a history and J quotas in, rows, scores and steps of the recalled items out.

    Step j's list is the best of what is neither excluded nor taken by an earlier step. One search of a step serves both
    its list and the item that is fed back: the lists before it hold no more items than are asked for in all, so what it
    needs is among that many best of what is not excluded.

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
        # As many must be found as are generated, whatever is asked for.
        self.num_found = min(max(max_recalled, num_interests), decoder.num_items)

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
        least = min(self.steps.num_interests, self.num_found)
        wanted = quotas.sum(dim=1).amax(dim=0, keepdim=True).clamp(least, self.num_found)
        found: list[tuple[Tensor, Tensor]] = []

        def best(interest: Tensor, generated: list[Tensor]) -> Tensor:
            found.append(self._search(interest, excluded_ids, wanted))
            rows, _ = self._without(*found[-1], generated)
            return rows[:, :1]

        interests, generated = self.steps.unroll(user_ids, input_ids, segment_ids, lengths, best)
        found.append(self._search(interests[-1], excluded_ids, wanted))
        slots = torch.arange(self.num_recalled, device=quotas.device).unsqueeze(0)
        lists: list[tuple[Tensor, Tensor]] = []
        taken: list[Tensor] = []
        for step, (rows, scores) in enumerate(found):
            rows, scores = self._without(rows, scores, taken)
            lists.append((rows[:, : self.num_recalled], scores[:, : self.num_recalled]))
            # Row 0 stands for none.
            taken.append(lists[-1][0] * (slots < quotas[:, step : step + 1]))
        merged = _merge([rows for rows, _ in lists], [scores for _, scores in lists], quotas, slots)
        return (*merged, torch.cat(generated, dim=1)) if generated else merged

    def _search(self, interest: Tensor, excluded: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The best rows and their scores, both (B, N), best first; row 0 and -inf behind as many as are wanted."""
        scores = interest @ self.decoder.item_matrix.T
        padding = torch.full_like(excluded[:, :1], PADDING_ROW)
        scores = scores.scatter(1, torch.cat([padding, excluded], dim=1), -torch.inf)
        num_rows = scores.shape[1]
        block = _block_size(num_rows, self.num_found)
        filled_up = nn.functional.pad(scores, (0, -num_rows % block), value=-torch.inf)
        found: tuple[Tensor, Tensor] = leading(filled_up, wanted, block, self.num_found)
        return found

    def _without(self, rows: Tensor, scores: Tensor, others: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Rows and scores, both (B, N) and best first, with those that are among others (B, any number) put last."""
        if not others:
            return rows, scores
        none = rows.new_zeros((rows.shape[0], self.decoder.num_items + 1), dtype=torch.bool)
        is_other = none.scatter(1, torch.cat(others, dim=1), True).gather(1, rows)
        scores, places = scores.masked_fill(is_other, -torch.inf).topk(rows.shape[1], dim=1)
        return rows.gather(1, places), scores


Graph = Prefill | Decode | Interests | Recall
"""Any graph that can be exported; has ``spec``, ``decoder`` and ``next_item``."""


def _block_size(num_rows: int, number: int) -> int:
    """Of smaller blocks there are more maxima to sort, of larger ones more scores inside; so many are needed."""
    size = _MAX_BLOCK
    while -(-num_rows // size) < number:
        size //= 2
    return size


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
