"""The decoder: a small pre-LN GPT over item rows, with user, item, position and segment embeddings.

Knows tensors of rows only; nothing of ids, files, training or export. One set of weights is run in three ways:
``forward`` over all positions (training, and the reference that recomputes), ``prefill`` over a history, and ``extend``
by new tokens on cached keys and values.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from recgpt.config import ModelConfig
from recgpt.model.item_table import PADDING_ROW, ItemTable

SHARED_USER_ROW = 0


class MemberNorm(nn.LayerNorm):
    """LayerNorm over each member's part of the width.

    Args:
        width: D, of all members together.
        num_members: M.
    """

    def __init__(self, width: int, num_members: int) -> None:
        super().__init__(width)
        self._parts = (num_members, width // num_members)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if self._parts[0] == 1:
            return super().forward(hidden)
        parts = hidden.reshape(*hidden.shape[:-1], *self._parts)
        return functional.layer_norm(parts, self._parts[1:], eps=self.eps).flatten(-2) * self.weight + self.bias


class Block(nn.Module):
    """One decoder block: masked multi-head attention, then a position-wise feed-forward network, both pre-LN residual.

    Keys and values are computed apart from queries, so that a caller may ask for the few positions it needs and bring
    cached keys and values for the others.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.head_size = width // config.num_heads
        # Source: eq. 2 of the paper divides by sqrt(D); the usual choice is sqrt(D / H).
        member_width = width // config.num_members
        self.scale = 1.0 / math.sqrt(member_width if config.attention_scale == "model" else self.head_size)
        self.attention_norm = MemberNorm(width, config.num_members)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.attention_output = nn.Linear(width, width)
        self.ffn_norm = MemberNorm(width, config.num_members)
        self.ffn_input = nn.Linear(width, config.ffn_size)
        self.activation = nn.ReLU() if config.activation == "relu" else nn.GELU()
        self.ffn_output = nn.Linear(config.ffn_size, width)
        self.dropout = nn.Dropout(config.dropout)
        is_relative = config.position == "relative"
        self.distance_bias = nn.Embedding(config.max_length, config.num_heads) if is_relative else None

    def keys_values(self, hidden: Tensor) -> Tensor:
        """Keys and values of tokens, (B, S, D) -> (B, 2, H, S, Dh)."""
        batch, length, _ = hidden.shape
        projected: Tensor = self.key_value(self.attention_norm(hidden))
        return projected.reshape(batch, length, 2, self.num_heads, self.head_size).permute(0, 2, 3, 1, 4)

    def score_bias(self, mask: Tensor, distances: Tensor) -> Tensor:
        """What is added to attention scores: the bias by distance where a token may look, else -inf.

        Source of the bias by distance: Shaw et al. 2018, in the scalar form of T5 (Raffel et al. 2020).

        Args:
            mask: (B or 1, S, P) bool, True where a token may look; at least one per token.
            distances: int64 likewise: how many positions a key lies back; anything where masked.

        Returns:
            (B or 1, H or 1, S, P).
        """
        if self.distance_bias is None:
            return torch.where(mask, 0.0, -torch.inf).unsqueeze(1)
        by_distance = self.distance_bias(distances.clamp(min=0)).permute(0, 3, 1, 2)
        return torch.where(mask.unsqueeze(1), by_distance, -torch.inf)

    def forward(self, hidden: Tensor, keys_values: Tensor, bias: Tensor) -> Tensor:
        """Lets S tokens attend to P keys.

        Args:
            hidden: (B, S, D), the tokens that ask.
            keys_values: (B, 2, H, P, Dh), their own included.
            bias: broadcastable to (B, H, S, P), see ``score_bias``.

        Returns:
            (B, S, D).
        """
        batch, length, width = hidden.shape
        query = self.query(self.attention_norm(hidden))
        query = query.reshape(batch, length, self.num_heads, self.head_size).transpose(1, 2)
        keys, values = keys_values[:, 0], keys_values[:, 1]
        weights = torch.softmax((query @ keys.transpose(-2, -1)) * self.scale + bias, dim=-1)
        mixed = (self.dropout(weights) @ values).transpose(1, 2).reshape(batch, length, width)
        hidden = hidden + self.dropout(self.attention_output(mixed))
        inner = self.dropout(self.activation(self.ffn_input(self.ffn_norm(hidden))))
        output: Tensor = hidden + self.dropout(self.ffn_output(inner))
        return output


def unit_vectors(vectors: Tensor) -> Tensor:
    """Vectors (..., D) by their lengths, as ``torch.nn.functional.normalize`` does with an operator more in a graph."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.clamp_min(1e-12)


class Decoder(nn.Module):
    """RecGPT's decoder.

    Rows: item rows are 1..num_items and 0 is padding. User rows are 1..num_users and 0 is the shared user, for users
    that nobody knows: its vector stays zero, since positions can carry what all users share.

    Sequences are right-padded, so position 0 is always the oldest token and nothing ever shifts.

    Source: eq. 2-3 of the paper (arXiv 2404.08675); pre-LN residual blocks and a final LayerNorm as in GPT-2. With
    cosine similarity, item vectors are unit vectors (at the input times one learned number) and so are interests.

    Args:
        config: architecture.
        num_items: V, size of the catalogue.
        num_users: users with a vector of their own.
    """

    def __init__(self, config: ModelConfig, *, num_items: int, num_users: int) -> None:
        super().__init__()
        self.config = config
        self.num_items = num_items
        self.num_users = num_users
        width = config.hidden_size
        self.user_embedding = nn.Embedding(num_users + 1, width, padding_idx=SHARED_USER_ROW)
        self.is_cosine = config.similarity == "cosine"
        self.item_embedding = ItemTable(num_items, width, unit=self.is_cosine)
        scales = () if config.num_members == 1 else (width,)
        self.item_scale = nn.Parameter(torch.ones(scales)) if self.is_cosine else None
        is_absolute = config.position == "absolute"
        self.position_embedding = nn.Embedding(config.max_length, width) if is_absolute else None
        self.segment_embedding = nn.Embedding(2, width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.final_norm = MemberNorm(width, config.num_members)
        self.output = None if config.tied else ItemTable(num_items, width, unit=self.is_cosine)
        self._initialise()

    @property
    def item_matrix(self) -> Tensor:
        """(V + 1, D), the one matrix that training scores, generation and the item index share; row 0 is padding."""
        return self.item_embedding.vectors if self.output is None else self.output.vectors

    def make_plain(self) -> None:
        """Replaces tables of unit vectors by plain tables of the same vectors, so that no call computes them again."""
        self.item_embedding = self.item_embedding.plain()
        if self.output is not None:
            self.output = self.output.plain()

    def embed(self, user_rows: Tensor, item_rows: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """Input rows of the decoder (eq. 2): (B,), (B, S), (B, S), (B or 1, S) -> (B, S, D)."""
        hidden: Tensor = self.embed_items(item_rows) + self.user_embedding(user_rows).unsqueeze(1)
        if self.position_embedding is not None:
            hidden = hidden + self.position_embedding(positions)
        hidden = hidden + self.segment_embedding(segments)
        return hidden

    def embed_items(self, item_rows: Tensor) -> Tensor:
        """The items' part of ``embed``: (B, S) -> (B, S, D)."""
        vectors: Tensor = self.item_embedding(item_rows)
        return vectors if self.item_scale is None else vectors * self.item_scale

    def forward(self, user_rows: Tensor, item_rows: Tensor, segments: Tensor) -> Tensor:
        """Interests at all positions of right-padded sequences.

        Args:
            user_rows: (B,) int64.
            item_rows: (B, T) int64, T at most C, 0 for padding.
            segments: (B, T) int64, 0 or 1.

        Returns:
            (B, T, D); rows at padding positions mean nothing.
        """
        positions = torch.arange(item_rows.shape[1], device=item_rows.device)
        causal = (positions.unsqueeze(0) <= positions.unsqueeze(1)).unsqueeze(0)
        distances = (positions.unsqueeze(1) - positions.unsqueeze(0)).unsqueeze(0)
        hidden = self.dropout(self.embed(user_rows, item_rows, segments, positions.unsqueeze(0)))
        for block in self._layers():
            hidden = block(hidden, block.keys_values(hidden), block.score_bias(causal, distances))
        return self.normalise(hidden)

    def prefill(self, user_rows: Tensor, item_rows: Tensor, segments: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Interest after the last real token, and the keys and values of all tokens.

        In the last block only the last token asks: the other queries, their attention and feed-forward rows are never
        needed.

        Args:
            user_rows: (B,) int64.
            item_rows: (B, T) int64, right-padded with 0.
            segments: (B, T) int64.
            lengths: (B,) int64, real tokens per row, 1..T.

        Returns:
            interest (B, D) and past (B, L, 2, H, T, Dh); entries at padding positions mean nothing.
        """
        positions = torch.arange(item_rows.shape[1], device=item_rows.device)
        causal = (positions.unsqueeze(0) <= positions.unsqueeze(1)).unsqueeze(0)
        distances = (positions.unsqueeze(1) - positions.unsqueeze(0)).unsqueeze(0)
        hidden = self.embed(user_rows, item_rows, segments, positions.unsqueeze(0))
        past = []
        *earlier, last = self._layers()
        for block in earlier:
            past.append(block.keys_values(hidden))
            hidden = block(hidden, past[-1], block.score_bias(causal, distances))
        past.append(last.keys_values(hidden))
        index = (lengths - 1).reshape(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
        real = (positions.unsqueeze(0) < lengths.unsqueeze(1)).unsqueeze(1)
        distances = (lengths.unsqueeze(1) - 1 - positions).unsqueeze(1)
        interest = last(hidden.gather(1, index), past[-1], last.score_bias(real, distances))
        return self.normalise(interest).squeeze(1), torch.stack(past, dim=1)

    def extend(
        self, user_rows: Tensor, item_rows: Tensor, segments: Tensor, positions: Tensor, past: Tensor, past_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Interest after S new tokens that follow P cached ones.

        Args:
            user_rows: (B,) int64.
            item_rows: (B, S) int64, all real.
            segments: (B, S) int64.
            positions: (B, S) int64, below C.
            past: (B, L, 2, H, P, Dh).
            past_mask: (B, P) bool, True at cached tokens that are real.

        Returns:
            interest (B, D) after the last new token, and the new keys and values (B, L, 2, H, S, Dh).
        """
        order = torch.arange(item_rows.shape[1], device=item_rows.device)
        causal = (order.unsqueeze(0) <= order.unsqueeze(1)).unsqueeze(0)
        seen = past_mask.unsqueeze(1)
        mask = torch.cat([seen.expand(-1, item_rows.shape[1], -1), causal.expand(item_rows.shape[0], -1, -1)], dim=2)
        # Real cached tokens stand in the order of their positions, 0 first, whatever padding lies between them.
        cached = past_mask.long().cumsum(dim=1) - 1
        distances = positions.unsqueeze(2) - torch.cat([cached, positions], dim=1).unsqueeze(1)
        hidden = self.embed(user_rows, item_rows, segments, positions)
        new = []
        layers = self._layers()
        for depth, block in enumerate(layers):
            new.append(block.keys_values(hidden))
            if depth == len(layers) - 1:
                hidden, mask, distances = hidden[:, -1:], mask[:, -1:], distances[:, -1:]
            keys_values = torch.cat([past[:, depth], new[-1]], dim=3)
            hidden = block(hidden, keys_values, block.score_bias(mask, distances))
        return self.normalise(hidden).squeeze(1), torch.stack(new, dim=1)

    def _layers(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def normalise(self, hidden: Tensor) -> Tensor:
        """Interests from what the last block gives, (..., D) -> (..., D)."""
        normalised: Tensor = self.final_norm(hidden)
        if not self.is_cosine:
            return normalised
        num_members = self.config.num_members
        if num_members == 1:
            return unit_vectors(normalised)
        parts = normalised.reshape(*normalised.shape[:-1], num_members, -1)
        return unit_vectors(parts).flatten(-2) / math.sqrt(num_members)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        # User vectors and segments start as "no information"; user vectors overfit easily (few targets a user).
        nn.init.zeros_(self.user_embedding.weight)
        nn.init.zeros_(self.segment_embedding.weight)
        for block in self._layers():
            if block.distance_bias is not None:
                nn.init.zeros_(block.distance_bias.weight)
        for table in (self.item_embedding, self.output):
            if table is not None:
                with torch.no_grad():
                    table.weight[PADDING_ROW].zero_()
