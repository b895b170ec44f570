"""The best next item by a scan of the whole catalogue in 8 bits and exact scores of the few that come out on top.

The scan reads a quarter of the bytes and multiplies integers, which processors do several times as fast as floats. Its
scores are off by the rounding of vectors to 8 bits. As long as that is less than lies between the best item and the
last candidate, the answer is the one that exact scores of the whole catalogue give. One scale serves all items, so a
table with an item many times as long as the others is no good for it; the parity check of an export finds out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recgpt.graphs.modules import SCORE_BLOCK, no_item_columns
from recgpt.graphs.operators import scan_scores, take
from recgpt.model.decoder import Decoder
from recgpt.recall.scan import ZERO, RoundedItems

NUM_CANDIDATES = 8
_EXCLUDED = -(2**31)


class ScannedNextItem(nn.Module):
    """As ``NextItem``. Holds the item matrix in 8 bits as it is now, filled up with columns to whole blocks."""

    matrix: Tensor
    masked: Tensor

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.num_blocks = -(-len(decoder.item_matrix) // SCORE_BLOCK)
        self.num_columns = self.num_blocks * SCORE_BLOCK
        items = RoundedItems.of(decoder.item_matrix.detach().numpy(), self.num_columns)
        self.register_buffer("matrix", torch.from_numpy(items.matrix), persistent=False)
        self.register_buffer("masked", no_item_columns(decoder, SCORE_BLOCK), persistent=False)

    def forward(self, interest: Tensor, excluded: Tensor) -> Tensor:
        """(B, D) and (B, E) rows, 0 for none -> (B, 1) rows; the lowest row wins a tie."""
        rows, scanned = self._candidates(interest, excluded)
        candidates = nn.functional.embedding(rows, self.decoder.item_matrix)
        scores = (candidates @ interest.unsqueeze(2)).squeeze(2)
        scores = scores.masked_fill(scanned == _EXCLUDED, -torch.inf)
        is_best = scores == scores.amax(dim=1, keepdim=True)
        return rows.masked_fill(~is_best, self.num_columns).amin(dim=1, keepdim=True)

    def _candidates(self, interest: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of the highest scanned scores and these scores, both (B, candidates).

        The best rows lie in the blocks with the best maxima, which are far fewer to sort than all rows.
        """
        largest = interest.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        queries = ((interest / largest * (ZERO - 1)).round() + ZERO).to(torch.uint8)
        masked = self.masked.expand(excluded.shape[0], -1)
        scores = scan_scores(queries, self.matrix)
        scores = scores.scatter(1, torch.cat([masked, excluded], dim=1), _EXCLUDED)
        blocks = scores.reshape(-1, self.num_blocks, SCORE_BLOCK)
        best = blocks.amax(dim=2).topk(min(NUM_CANDIDATES, self.num_blocks), dim=1).indices
        scanned, places = take(blocks, best).flatten(1).topk(NUM_CANDIDATES, dim=1)
        # Rounding towards zero is one operator of ONNX, and these numbers are positive; // would be eight.
        block = torch.div(places, SCORE_BLOCK, rounding_mode="trunc")
        rows = best.gather(1, block) * SCORE_BLOCK + places % SCORE_BLOCK
        # Where fewer items are left than candidates, masked columns are among these, and some of them are no rows.
        return rows.clamp_max(self.decoder.num_items), scanned
