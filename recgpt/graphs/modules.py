"""The graphs of the model as PyTorch modules, with the tensors of ``recgpt.signature`` at their border.

One decoder behind all of them. No control flow that depends on values, no zero-length cache, so that every exporter and
execution provider can take them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from recgpt.graphs.folded import FoldedEmbedding, LastBlock, StepBias
from recgpt.model.decoder import Block, Decoder
from recgpt.model.item_table import PADDING_ROW
from recgpt.signature import DECODE, PREFILL, GraphSpec, interests_spec

SCORE_BLOCK = 64
"""How many scores are searched by their maximum first."""


class NextItem(nn.Module):
    """The best item for an interest: argmax over the catalogue, padding and the excluded rows left out."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, interest: Tensor, excluded: Tensor) -> Tensor:
        """(B, D) and (B, E) rows, 0 for none -> (B, 1) rows; the lowest row wins a tie."""
        scores = interest @ self.decoder.item_matrix.T
        # Row 0 stands for "none" in `excluded`; scattering it there masks padding, which must be masked anyway.
        scores = scores.scatter(1, nn.functional.pad(excluded, (1, 0), value=PADDING_ROW), -torch.inf)
        return argmax(scores, self.decoder.num_items + 1)


class Prefill(nn.Module):
    """``prefill``: a history in, the first interest, the best next item and the cache out."""

    spec: GraphSpec = PREFILL

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.next_item: nn.Module = NextItem(decoder)

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
        self.next_item: nn.Module = NextItem(decoder)

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

    The last block caches normalised tokens instead of keys and values, see ``LastBlock``. Holds products of weights as
    they are when it is made.
    """

    slots: Tensor

    def __init__(self, decoder: Decoder, num_interests: int) -> None:
        super().__init__()
        self.spec = interests_spec(num_interests)
        self.num_interests = num_interests
        self.decoder = decoder
        self.next_item: nn.Module = NextItem(decoder)
        self.embed = FoldedEmbedding(decoder)
        self.last = LastBlock(self._blocks()[-1])
        self.biases = nn.ModuleList(
            StepBias(block, max_length=decoder.config.max_length, num_steps=num_interests) for block in self._blocks()
        )
        slots = torch.arange(decoder.config.max_length, device=decoder.item_matrix.device).unsqueeze(0)
        self.register_buffer("slots", slots, persistent=False)

    def forward(
        self, user_ids: Tensor, input_ids: Tensor, segment_ids: Tensor, lengths: Tensor, excluded_ids: Tensor
    ) -> tuple[Tensor, ...]:
        """Shapes as in ``recgpt.signature.interests_spec``."""

        def best(interest: Tensor, generated: list[Tensor]) -> Tensor:
            item: Tensor = self.next_item(interest, torch.cat([excluded_ids, *generated], dim=1))
            return item

        return stack_steps(*self.unroll(user_ids, input_ids, segment_ids, lengths, best))

    def unroll(
        self,
        user_ids: Tensor,
        input_ids: Tensor,
        segment_ids: Tensor,
        lengths: Tensor,
        choose: Callable[[Tensor, list[Tensor]], Tensor],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The loop: J interests (B, D), and the J - 1 items (B, 1) that ``choose`` took between them.

        Args:
            user_ids: as of ``forward``.
            input_ids: as of ``forward``.
            segment_ids: as of ``forward``.
            lengths: as of ``forward``.
            choose: the next item (B, 1) for an interest (B, D) and the items taken before.
        """
        slots = self.slots[:, : input_ids.shape[1]]
        hidden = self.embed(user_ids[:, 0], input_ids, segment_ids, slots)
        *earlier, _ = self._blocks()
        *earlier_biases, last_bias = self.biases
        distances = (slots.transpose(0, 1) - slots).unsqueeze(0)
        past = []
        for block in earlier:
            past.append(block.keys_values(hidden))
            hidden = block(hidden, past[-1], block.score_bias(distances >= 0, distances))
        places = StepBias.places(lengths, slots, self.num_interests)
        tokens = self.last.normalise(hidden)
        newest = (lengths - 1).unsqueeze(2).expand(-1, 1, hidden.shape[2])
        hidden = hidden.gather(1, newest).squeeze(1)
        interests = [self._interest(hidden, tokens, last_bias(places, 0))]
        generated: list[Tensor] = []
        for step in range(1, self.num_interests):
            item = choose(interests[-1], generated)
            generated.append(item)
            hidden = self.embed.prompts(user_ids[:, 0], item, lengths + (step - 1))
            places = nn.functional.pad(places, (0, 1), value=step - 1)
            for depth, (block, bias) in enumerate(zip(earlier, earlier_biases, strict=True)):
                past[depth] = torch.cat([past[depth], block.keys_values(hidden)], dim=3)
                hidden = block(hidden, past[depth], bias(places, step).unsqueeze(2))
            tokens = torch.cat([tokens, self.last.normalise(hidden)], dim=1)
            interests.append(self._interest(hidden.squeeze(1), tokens, last_bias(places, step)))
        return interests, generated

    def _interest(self, hidden: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
        return self.decoder.normalise(self.last(hidden, tokens, bias))

    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.decoder.blocks))


def stack_steps(interests: list[Tensor], generated: list[Tensor]) -> tuple[Tensor, ...]:
    """Outputs of ``interests_J``: J of (B, D), J - 1 of (B, 1) -> (B, J, D), and (B, J - 1) unless J is 1."""
    stacked = torch.stack(interests, dim=1)
    return (stacked, torch.cat(generated, dim=1)) if generated else (stacked,)


def no_item_columns(decoder: Decoder, block: int) -> Tensor:
    """Columns (1, N) that are no items, where scores fill whole blocks: padding, and those behind the last item."""
    num_rows = decoder.num_items + 1
    behind = range(num_rows, -(-num_rows // block) * block)
    return torch.tensor([[PADDING_ROW, *behind]], device=decoder.item_matrix.device)


def argmax(scores: Tensor, width: int) -> Tensor:
    """The lowest of the best columns of each row: (B, width) -> (B, 1).

    Runtimes search for a position far more slowly than for a maximum, so the maxima of blocks come first, and the
    position is looked for among them and then in one block.
    """
    num_blocks = -(-width // SCORE_BLOCK)
    filled_up = nn.functional.pad(scores, (0, num_blocks * SCORE_BLOCK - width), value=-torch.inf)
    blocks = filled_up.reshape(-1, num_blocks, SCORE_BLOCK)
    best = blocks.amax(dim=2).argmax(dim=1, keepdim=True)
    inside = blocks.gather(1, best.unsqueeze(2).expand(-1, 1, SCORE_BLOCK)).argmax(dim=2)
    return best * SCORE_BLOCK + inside


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
