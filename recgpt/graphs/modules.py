"""The three graphs as PyTorch modules, with the tensors of ``recgpt.signature`` at their border.

One decoder behind all of them. No control flow that depends on values, no zero-length cache, so that every exporter and
execution provider can take them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recgpt.model.decoder import Decoder
from recgpt.model.item_table import PADDING_ROW
from recgpt.signature import DECODE, PREFILL, GraphSpec, interests_spec
from recgpt.types import PROMPT


class NextItem(nn.Module):
    """The best item for an interest: argmax over the catalogue, padding and the excluded rows left out."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, interest: Tensor, excluded: Tensor) -> Tensor:
        """(B, D) and (B, E) rows, 0 for none -> (B, 1) rows; the lowest row wins a tie."""
        scores = interest @ self.decoder.item_matrix.T
        # Row 0 stands for "none" in `excluded`; scattering it there masks padding, which must be masked anyway.
        padding = torch.full_like(excluded[:, :1], PADDING_ROW)
        excluded = torch.cat([padding, excluded], dim=1)
        scores = scores.scatter(1, excluded, -torch.inf)
        return scores.argmax(dim=1, keepdim=True)


class Prefill(nn.Module):
    """``prefill``: a history in, the first interest, the best next item and the cache out."""

    spec: GraphSpec = PREFILL

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.next_item = NextItem(decoder)

    def forward(
        self, user_ids: Tensor, input_ids: Tensor, segment_ids: Tensor, lengths: Tensor, excluded_ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes as in ``recgpt.signature.PREFILL``."""
        interest, past = self.decoder.prefill(user_ids[:, 0], input_ids, segment_ids, lengths[:, 0])
        return interest, self.next_item(interest, excluded_ids), past


class Decode(nn.Module):
    """``decode``: S new tokens on a cache; the cache stays compact, so padding of the prefill never leaves a hole."""

    spec: GraphSpec = DECODE

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.next_item = NextItem(decoder)

    def forward(
        self,
        user_ids: Tensor,
        input_ids: Tensor,
        segment_ids: Tensor,
        lengths: Tensor,
        excluded_ids: Tensor,
        past_key_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shapes as in ``recgpt.signature.DECODE``; ``lengths`` counts the real tokens already cached."""
        num_new, num_past = input_ids.shape[1], past_key_values.shape[4]
        positions = lengths + torch.arange(num_new, device=lengths.device)
        past_mask = torch.arange(num_past, device=lengths.device) < lengths
        interest, new = self.decoder.extend(
            user_ids[:, 0], input_ids, segment_ids, positions, past_key_values, past_mask
        )
        present = _append(past_key_values, past_mask, new, positions)
        return interest, self.next_item(interest, excluded_ids), present


class Interests(nn.Module):
    """``interests_J``: the whole autoregressive loop unrolled; the cache never leaves the graph.

    Each step's item is the best one that is neither excluded nor generated before; it is fed back with segment 1 at the
    next position. Source: section 4.4 of the paper, extended from two steps to J as in its section 5.5.
    """

    def __init__(self, decoder: Decoder, num_interests: int) -> None:
        super().__init__()
        self.spec = interests_spec(num_interests)
        self.num_interests = num_interests
        self.decoder = decoder
        self.next_item = NextItem(decoder)

    def forward(
        self, user_ids: Tensor, input_ids: Tensor, segment_ids: Tensor, lengths: Tensor, excluded_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shapes as in ``recgpt.signature.interests_spec``."""
        interest, past = self.decoder.prefill(user_ids[:, 0], input_ids, segment_ids, lengths[:, 0])
        past_mask = torch.arange(input_ids.shape[1], device=lengths.device) < lengths
        interests, generated = [interest], [self.next_item(interest, excluded_ids)]
        for step in range(1, self.num_interests):
            item = generated[-1]
            interest, new = self.decoder.extend(
                user_ids[:, 0], item, torch.full_like(item, PROMPT), lengths + (step - 1), past, past_mask
            )
            past = torch.cat([past, new], dim=4)
            past_mask = torch.cat([past_mask, torch.ones_like(item, dtype=torch.bool)], dim=1)
            interests.append(interest)
            generated.append(self.next_item(interest, torch.cat([excluded_ids, *generated], dim=1)))
        return torch.stack(interests, dim=1), torch.cat(generated, dim=1)


Graph = Prefill | Decode | Interests
"""Any of the three; has ``spec`` and ``decoder``."""


def _append(past: Tensor, past_mask: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """Puts new keys and values right behind the real cached ones of each row; zeros behind them.

    Args:
        past: (B, L, 2, H, P, Dh).
        past_mask: (B, P) bool, True at real tokens.
        new: (B, L, 2, H, S, Dh).
        positions: (B, S), where the new tokens go.

    Returns:
        (B, L, 2, H, P + S, Dh).
    """
    slots = torch.arange(past.shape[4] + new.shape[4], device=past.device)
    place = (slots.unsqueeze(1) == positions.unsqueeze(1)).to(new.dtype)  # (B, P + S, S), one 1 a column
    placed = place[:, None, None, None] @ new
    kept = torch.cat([past, torch.zeros_like(new)], dim=4)
    keep = torch.cat([past_mask, torch.zeros_like(positions, dtype=torch.bool)], dim=1)
    return torch.where(keep[:, None, None, None, :, None], kept, placed)
