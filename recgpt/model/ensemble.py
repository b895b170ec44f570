"""Several trained models as one: a decoder of their widths together, whose score is the mean of theirs.

Hidden states, interests and item vectors stand side by side, every matrix is block-diagonal, and norms are by member,
so no member hears of another before the scores. What goes on with the result, export and item index, need not know.

Source: the mean over models that differ by their seed alone, Lakshminarayanan et al. 2017, "Simple and scalable
predictive uncertainty estimation using deep ensembles"; here of scores, not of probabilities, so that one inner product
is enough.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from recgpt.errors import ConfigError
from recgpt.model.checkpoint import Checkpoint
from recgpt.model.decoder import Decoder
from recgpt.model.item_table import ItemTable
from recgpt.training_state import PRETRAINED, PROMPT_TUNED


def ensemble(checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """One checkpoint of several.

    Args:
        checkpoints: of the same data and architecture, as those of several seeds or of several ways of training are;
            two at least.

    Returns:
        All models in one, with ids, popularity and examples of the first. Cosines are averaged, inner products added
        up. Epochs are those of all; nothing is known of its quality on validation but the members'.

    Raises:
        ConfigError: fewer than two, an ensemble among them, or models of different architecture or data.
    """
    first = checkpoints[0] if checkpoints else None
    if first is None or len(checkpoints) < 2:
        raise ConfigError(f"{len(checkpoints)} checkpoints: expected at least two, of the same architecture and data")
    for other in checkpoints:
        same_data = (other.item_ids, other.user_ids) == (first.item_ids, first.user_ids)
        if other.decoder.config != first.decoder.config or not same_data or first.decoder.config.num_members > 1:
            raise ConfigError(
                "checkpoints of different architecture, items or users, or ensembles already; expected models of one "
                "architecture ([model] of the recipe) and one data file"
            )
    states = [one.training for one in checkpoints]
    training = dataclasses.replace(
        first.training,
        stage=PROMPT_TUNED if all(state.is_prompt_tuned for state in states) else PRETRAINED,
        num_epochs=sum(state.num_epochs for state in states),
        num_members=len(states),
        members=tuple(state.to_dict() for state in states),
        validation={},
    )
    return dataclasses.replace(first, training=training, decoder=_side_by_side([one.decoder for one in checkpoints]))


@torch.no_grad()
def _side_by_side(decoders: Sequence[Decoder]) -> Decoder:
    one, number = decoders[0].config, len(decoders)
    config = dataclasses.replace(
        one,
        hidden_size=number * one.hidden_size,
        num_heads=number * one.num_heads,
        ffn_size=number * one.ffn_size,
        num_members=number,
    )
    together = Decoder(config, num_items=decoders[0].num_items, num_users=decoders[0].num_users).eval()
    # Unit vectors of each member become one unit vector.
    shrink = 1 / math.sqrt(number) if together.is_cosine else 1.0
    for name, module in together.named_modules():
        members = [decoder.get_submodule(name) for decoder in decoders]
        if isinstance(module, ItemTable):
            module.weight.copy_(torch.cat([cast("ItemTable", member).vectors for member in members], dim=1) * shrink)
        elif isinstance(module, nn.Embedding):
            module.weight.copy_(torch.cat([cast("nn.Embedding", member).weight for member in members], dim=1))
        elif isinstance(module, nn.LayerNorm):
            for mine, theirs in zip(module.parameters(), _parameters(members), strict=True):
                mine.copy_(torch.cat(theirs))
        elif isinstance(module, nn.Linear):
            # Keys of all members, then values of all members.
            num_parts = 2 if name.endswith("key_value") else 1
            weights, biases = ([part.chunk(num_parts) for part in theirs] for theirs in _parameters(members))
            module.weight.copy_(torch.cat([_block_diagonal(parts) for parts in zip(*weights, strict=True)]))
            module.bias.copy_(torch.cat([torch.cat(parts) for parts in zip(*biases, strict=True)]))
    if together.item_scale is not None:
        scales = [cast("Tensor", decoder.item_scale).expand(one.hidden_size) for decoder in decoders]
        together.item_scale.copy_(torch.cat(scales) / shrink)
    return together


def _block_diagonal(parts: Sequence[Tensor]) -> Tensor:
    diagonal: Tensor = torch.block_diag(*parts)  # type: ignore[no-untyped-call]
    return diagonal


def _parameters(members: Sequence[nn.Module]) -> list[tuple[Tensor, ...]]:
    """Weights of all, then biases of all."""
    return list(zip(*(member.parameters() for member in members), strict=True))
