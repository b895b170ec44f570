"""Parts of a decoder with sums and products of their weights worked out beforehand: the same numbers up to rounding.

Attention of one query needs its products with all keys, and one mixture of values. Both are linear in the normalised
tokens, so the projections to keys and values can be moved to the other side, where there is one vector a head instead
of one a token:

    query . (K n) = (K^T query) . n          sum_t a_t (V n_t) = V (sum_t a_t n_t)

That is a tenth of the work of a last block, in which one position asks. Knows weights; nothing of graphs or steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recgpt.model.decoder import Block, Decoder
from recgpt.types import PROMPT


class FoldedEmbedding(nn.Module):
    """``Decoder.embed`` with positions and segments in one table, and without users where none has a vector.

    Args:
        decoder: its positions, segments and users are taken as they are now, its items as they are when it runs.
    """

    places: Tensor

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.has_users = bool(decoder.user_embedding.weight.any())
        with torch.no_grad():
            places = decoder.segment_embedding.weight.clone()
            if decoder.position_embedding is not None:
                places = (places.unsqueeze(1) + decoder.position_embedding.weight.unsqueeze(0)).flatten(0, 1)
        self.register_buffer("places", places, persistent=False)

    def forward(self, user_rows: Tensor, item_rows: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """(B,), (B, S), (B, S), (B or 1, S) -> (B, S, D)."""
        place = segments
        if self.decoder.position_embedding is not None:
            place = segments * self.decoder.config.max_length + positions
        hidden = self.decoder.embed_items(item_rows) + nn.functional.embedding(place, self.places)
        return self._with_user(hidden, user_rows)

    def prompts(self, user_rows: Tensor, item_rows: Tensor, positions: Tensor) -> Tensor:
        """``forward`` where all segments are those of prompts: (B,), (B, S), (B or 1, S) -> (B, S, D)."""
        place = self.places[PROMPT]
        if self.decoder.position_embedding is not None:
            place = nn.functional.embedding(PROMPT * self.decoder.config.max_length + positions, self.places)
        return self._with_user(self.decoder.embed_items(item_rows) + place, user_rows)

    def _with_user(self, hidden: Tensor, user_rows: Tensor) -> Tensor:
        return hidden + self.decoder.user_embedding(user_rows).unsqueeze(1) if self.has_users else hidden


class StepBias(nn.Module):
    """``Block.score_bias`` for the newest token of each step: one look into a table, with the mask and the step in it.

    A key has a place that it keeps. G = J - 1 items are generated at most: item g has place g, padding has G, and token
    t of a history of n tokens has G + n - t. Since each step has a table of its own, nothing is counted when it runs.

    Args:
        block: whose bias by distance it is, as it is now.
        max_length: C.
        num_steps: J.
    """

    def __init__(self, block: Block, *, max_length: int, num_steps: int) -> None:
        super().__init__()
        with torch.no_grad():
            no_bias = torch.zeros(max_length, 1, device=block.query.weight.device)
            by_distance = no_bias if block.distance_bias is None else block.distance_bias.weight
            barred = torch.full_like(by_distance[:1], -torch.inf)
            for step in range(num_steps):
                unused_and_padding = barred.expand(num_steps - step, -1)
                table = torch.cat([by_distance[:step].flip(0), unused_and_padding, by_distance[step:]])
                self.register_buffer(f"table_{step}", table, persistent=False)

    @staticmethod
    def places(lengths: Tensor, slots: Tensor, num_steps: int) -> Tensor:
        """Of histories of ``lengths`` (B, 1) at slots (1, T), which count from 0: (B, T)."""
        most_generated = num_steps - 1
        return (lengths + most_generated - slots).clamp_min(most_generated)

    def forward(self, places: Tensor, step: int) -> Tensor:
        """Places (B, P) of history and ``step`` generated items -> (B, H or 1, P)."""
        return nn.functional.embedding(places, self.get_buffer(f"table_{step}")).transpose(1, 2)


class LastBlock(nn.Module):
    """``Block.forward`` for one query a row. Holds products of the block's weights as they are now.

    Args:
        block: the last block of a decoder.
    """

    to_scores: Tensor
    to_scores_bias: Tensor
    to_output: Tensor
    to_output_bias: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.num_heads = block.num_heads
        self.attention_norm, self.ffn_norm = block.attention_norm, block.ffn_norm
        self.ffn_input, self.activation, self.ffn_output = block.ffn_input, block.activation, block.ffn_output
        with torch.no_grad():
            for name, product in _absorbed(block).items():
                self.register_buffer(name, product.contiguous(), persistent=False)

    def normalise(self, hidden: Tensor) -> Tensor:
        """What ``forward`` takes of tokens: (..., D) -> (..., D)."""
        normalised: Tensor = self.attention_norm(hidden)
        return normalised

    def forward(self, hidden: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
        """Lets one token a row attend to P tokens.

        Args:
            hidden: (B, D), the token that asks.
            tokens: (B, P, D), all that may be seen, normalised, itself among them.
            bias: (B, H or 1, P), see ``Block.score_bias``.

        Returns:
            (B, D).
        """
        batch, width = hidden.shape
        queries = torch.addmm(self.to_scores_bias, self.normalise(hidden), self.to_scores).reshape(
            batch, self.num_heads, width
        )
        weights = torch.softmax(queries @ tokens.transpose(1, 2) + bias, dim=-1)
        mixed = (weights @ tokens).reshape(batch, self.num_heads * width)
        hidden = hidden + torch.addmm(self.to_output_bias, mixed, self.to_output)
        output: Tensor = hidden + self.ffn_output(self.activation(self.ffn_input(self.ffn_norm(hidden))))
        return output


def _absorbed(block: Block) -> dict[str, Tensor]:
    """The products of projections; computed in float64, so that only their own rounding is added."""
    heads, size = block.num_heads, block.head_size
    query, query_bias = block.query.weight.double(), block.query.bias.double()
    key, value = block.key_value.weight.double().chunk(2)
    value_bias = block.key_value.bias.double().chunk(2)[1]
    output, output_bias = block.attention_output.weight.double(), block.attention_output.bias.double()
    key, value, query = (matrix.reshape(heads, size, -1) for matrix in (key, value, query))
    by_head = output.reshape(-1, heads, size).permute(1, 0, 2)  # (H, D, Dh)
    # The bias of the keys adds the same to all scores of a query, which softmax takes out again.
    products = {
        "to_scores": (query.transpose(1, 2) @ key * block.scale).permute(1, 0, 2).flatten(1),
        "to_scores_bias": (query_bias.reshape(heads, 1, size) @ key * block.scale).flatten(),
        "to_output": (by_head @ value).transpose(1, 2).flatten(0, 1),
        "to_output_bias": output @ value_bias + output_bias,
    }
    return {name: product.float() for name, product in products.items()}
