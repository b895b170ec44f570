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

from recgpt.model.decoder import Block, Decoder, distance_scores


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
        return hidden + self.decoder.user_embedding(user_rows).unsqueeze(1) if self.has_users else hidden


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
        self.distance_bias = block.distance_bias
        self.attention_norm, self.ffn_norm = block.attention_norm, block.ffn_norm
        self.ffn_input, self.activation, self.ffn_output = block.ffn_input, block.activation, block.ffn_output
        with torch.no_grad():
            for name, product in _absorbed(block).items():
                self.register_buffer(name, product.contiguous(), persistent=False)

    def normalise(self, hidden: Tensor) -> Tensor:
        """What ``forward`` takes of the tokens: (B, S, D) -> (B, S, D)."""
        normalised: Tensor = self.attention_norm(hidden)
        return normalised

    def forward(self, hidden: Tensor, asking: Tensor, tokens: Tensor, mask: Tensor, distances: Tensor) -> Tensor:
        """Lets one token a row attend to P tokens.

        Args:
            hidden: (B, 1, D), the token that asks.
            asking: (B, 1, D), the same, normalised.
            tokens: (B, P, D), all that may be seen, normalised, itself among them.
            mask: (B, 1, P) bool, True where it may look.
            distances: (B, 1, P) int64, as in ``Block.forward``.

        Returns:
            (B, 1, D).
        """
        batch, width = hidden.shape[0], hidden.shape[-1]
        queries = (asking @ self.to_scores + self.to_scores_bias).reshape(batch, self.num_heads, width)
        scores = queries @ tokens.transpose(1, 2)
        if self.distance_bias is not None:
            scores = scores + distance_scores(self.distance_bias, distances).squeeze(2)
        weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)
        mixed = (weights @ tokens).reshape(batch, 1, self.num_heads * width)
        hidden = hidden + (mixed @ self.to_output + self.to_output_bias)
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
