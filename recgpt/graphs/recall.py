"""``recall_J`` as a PyTorch module: interests, exact search of the whole catalogue, and merge by quotas in one graph.

Ties go to the lower row, by ONNX's rule that of equal values TopK takes the one at the lower place. PyTorch's own topk
promises no such thing, so this module is to be exported, not run.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch import Tensor, nn

from recgpt.graphs.modules import Decode, Interests, NextItem, Prefill, no_item_columns
from recgpt.graphs.operators import leading, scan_leading
from recgpt.model.decoder import Decoder
from recgpt.model.item_table import PADDING_ROW
from recgpt.recall.scan import BLOCK, RoundedItems, most_scanned
from recgpt.signature import MAX_RECALLED, recall_scan_spec, recall_spec

_List = tuple[Tensor, Tensor]

# Scores that are looked at by their maximum first. With 32 there is little to sort for lists of 10 and of 100 items.
_MAX_BLOCK = 32


class Recall(nn.Module):
    """``recall_J``: a history and J quotas in, rows, scores and steps of the recalled items out.

    Step j's list is the best of what is neither excluded nor taken by an earlier step. One search of a step serves both
    its list and the item that is fed back: what it needs is among as many best of what is not excluded as are asked of
    it and of the steps before it. The last step feeds nothing back, so it searches without what was taken.

    Args:
        decoder: the model.
        num_interests: J.
        max_recalled: K; cut to the catalogue.
    """

    no_items: Tensor

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
        self.block = _block_size(decoder.num_items + 1, self.num_found)
        self.register_buffer("no_items", no_item_columns(decoder, self.block), persistent=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Shapes as in ``recgpt.signature.recall_spec``."""
        return self.recall(self._search, *inputs)

    def recall(
        self,
        search: Callable[[Tensor, Tensor, Tensor], _List],
        user_ids: Tensor,
        input_ids: Tensor,
        segment_ids: Tensor,
        lengths: Tensor,
        excluded_ids: Tensor,
        quotas: Tensor,
    ) -> tuple[Tensor, ...]:
        """``forward`` by a search for the best rows: of an interest, barred rows, and how many are wanted.

        It gives rows and scores, both (B, at least K) and best first; row 0 and -inf behind as many as are wanted.
        """
        # At least one, for an item is fed back where none is asked for.
        *before, last = torch.split(quotas.amax(dim=0).clamp(1, self.num_found), 1)
        needed = [reach.clamp_max(self.num_found) if step else reach for step, reach in enumerate(accumulate(before))]
        barred = torch.cat([self.no_items.expand(excluded_ids.shape[0], -1), excluded_ids], dim=1)
        slots = torch.arange(self.num_recalled, device=quotas.device).unsqueeze(0)
        lists: list[_List] = []
        taken: list[Tensor] = []

        def best(interest: Tensor, generated: list[Tensor]) -> Tensor:
            found = search(interest, barred, needed[len(generated)])
            lists.append(self._without(*found, taken))
            # Row 0 stands for none.
            quota = quotas[:, len(taken) : len(taken) + 1]
            taken.append(lists[-1][0][:, : self.num_recalled].where(slots < quota, PADDING_ROW))
            rows, _ = self._without(*found, generated)
            return rows[:, :1]

        interests, generated = self.steps.unroll(user_ids, input_ids, segment_ids, lengths, best)
        lists.append(search(interests[-1], torch.cat([barred, *taken], dim=1), last))
        cut = [(rows[:, : self.num_recalled], scores[:, : self.num_recalled]) for rows, scores in lists]
        merged = _merge(cut, quotas, slots)
        return (*merged, torch.cat(generated, dim=1)) if generated else merged

    def _search(self, interest: Tensor, barred: Tensor, wanted: Tensor) -> _List:
        """See ``recall``."""
        # Filled up to whole blocks before the product: a runtime does that once, when it loads the graph.
        columns = nn.functional.pad(self.decoder.item_matrix, (0, 0, 0, self.no_items.shape[1] - 1)).T
        scores = (interest @ columns).scatter(1, barred, -torch.inf)
        found: _List = leading(scores, wanted, self.block, self.num_found)
        return found

    def _without(self, rows: Tensor, scores: Tensor, others: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Rows and scores, both (B, N) and best first, with those that are among others (B, any number) put last."""
        if not others:
            return rows, scores
        none = rows.new_zeros((rows.shape[0], self.decoder.num_items + 1), dtype=torch.bool)
        is_other = none.scatter(1, torch.cat(others, dim=1), True).gather(1, rows)
        scores, places = scores.masked_fill(is_other, -torch.inf).topk(rows.shape[1], dim=1)
        return rows.gather(1, places), scores


class ScannedRecall(Recall):
    """``recall_scan_J``: the same by a scan in 8 bits. Holds the item matrix in 8 bits as it is now.

    Args:
        decoder: the model.
        num_interests: J.
        max_recalled: K; cut to what a scan of the catalogue is good for.
    """

    matrix: Tensor

    def __init__(self, decoder: Decoder, num_interests: int, *, max_recalled: int = MAX_RECALLED) -> None:
        super().__init__(decoder, num_interests, max_recalled=min(max_recalled, most_scanned(decoder.num_items)))
        self.spec = recall_scan_spec(num_interests)
        self.register_buffer("no_items", no_item_columns(decoder, BLOCK), persistent=False)
        vectors = decoder.item_matrix.detach().cpu().numpy().copy()
        vectors[PADDING_ROW] = 0  # is never found, and must not make the steps of the others coarse
        items = RoundedItems.of(vectors, -(-len(vectors) // BLOCK) * BLOCK)
        self.rounding = items.rounding
        self.register_buffer("matrix", torch.from_numpy(items.matrix), persistent=False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Shapes as in ``recgpt.signature.recall_scan_spec``."""
        are_whole = []

        def search(interest: Tensor, barred: Tensor, wanted: Tensor) -> _List:
            vectors = self.decoder.item_matrix
            *found, is_whole = scan_leading(
                interest, vectors, self.matrix, barred, wanted, *self.rounding, self.num_found
            )
            are_whole.append(is_whole)
            return tuple(found)

        recalled = self.recall(search, *inputs)
        is_whole = torch.stack(are_whole).all().to(torch.int64)
        return (*recalled, is_whole.expand(len(inputs[0]), 1))


Graph = Prefill | Decode | Interests | Recall | ScannedRecall
"""Any graph that can be exported; has ``spec``, ``decoder`` and ``next_item``."""


def _block_size(num_rows: int, number: int) -> int:
    """Of smaller blocks there are more maxima to sort, of larger ones more scores inside; so many are needed."""
    size = _MAX_BLOCK
    while -(-num_rows // size) < number:
        size //= 2
    return size


def _merge(lists: list[tuple[Tensor, Tensor]], quotas: Tensor, slots: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first quota of each step's list, one behind the other.

    Args:
        lists: rows and scores of each step, (B, K) and best first.
        quotas: (B, J).
        slots: (1, K), 0 to K - 1.

    Returns:
        Rows, scores and steps, each (B, K); 0 behind as many as the quotas sum to.
    """
    (rows, scores), *further = lists
    steps = torch.ones_like(slots)
    begin = torch.zeros_like(slots[:, :1])
    for step, (its_rows, its_scores) in enumerate(further, start=1):
        begin = begin + quotas[:, step - 1 : step]
        is_its = slots >= begin
        places = (slots - begin).clamp_min(0)
        rows = torch.where(is_its, its_rows.gather(1, places), rows)
        scores = torch.where(is_its, its_scores.gather(1, places), scores)
        steps = torch.where(is_its, step + 1, steps)
    # Where a caller asks for more than there is, nothing is given rather than what was excluded.
    is_taken = (slots < quotas.sum(dim=1, keepdim=True)) & (scores > -torch.inf)
    return rows.where(is_taken, PADDING_ROW), scores.where(is_taken, 0.0), steps.where(is_taken, 0)
