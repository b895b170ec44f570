"""What both writers need before they trace a graph: a checked copy of the module, and inputs to trace it with.

Knows no file format.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recgpt.errors import ExportError
from recgpt.graphs.modules import NextItem
from recgpt.graphs.recall import Graph
from recgpt.model.decoder import Decoder
from recgpt.signature import FLOAT32, INT64, LENGTHS, PAST_KEY_VALUES

# At least 2 and all different: an exporter takes a size of 1 for a constant and two equal sizes for the same axis.
# T is as small as S, which no graph has beside it: the smallest window has 2 positions.
_EXAMPLE_SIZES = {"B": 3, "T": 2, "S": 2, "P": 7, "E": 5}

DYNAMIC_AXES = frozenset(_EXAMPLE_SIZES)
"""The axis letters of ``recgpt.signature`` whose sizes the request decides; the model decides the others."""

_DTYPES = {INT64: torch.int64, FLOAT32: torch.float32}


def export_copy(graph: Graph, next_item: Callable[[Decoder], nn.Module] = NextItem) -> Graph:
    """A copy of the graph as it is exported: on the CPU, in eval mode, every weight finite.

    A user table that was never trained is left out.

    Args:
        graph: it is not changed.
        next_item: makes what chooses the next item, for the copy's decoder.

    Raises:
        ExportError: a weight is NaN or infinite; names the tensor.
    """
    check_finite(graph.decoder)
    copied = copy.deepcopy(graph).cpu().eval()
    decoder = copied.decoder
    decoder.make_plain()
    copied.next_item = next_item(decoder)
    if not decoder.user_embedding.weight.any():
        decoder.user_embedding = _SharedUser(1, decoder.config.hidden_size)
    return copied


def check_finite(module: nn.Module) -> None:
    """ExportError that names the first weight that holds NaN or infinity, if there is one."""
    for name, tensor in module.state_dict().items():
        num_bad = int((~torch.isfinite(tensor)).sum())
        if num_bad:
            raise ExportError(
                f"weight {name} holds NaN or infinity in {num_bad} of {tensor.numel()} places; expected finite "
                f"numbers. Train again, at a lower learning rate"
            )


def example_inputs(graph: Graph) -> tuple[Tensor, ...]:
    """One tensor for each input of the graph, in the order of its signature; the values are valid for every model."""
    sizes = _EXAMPLE_SIZES | _model_sizes(graph.decoder)
    is_decode = any(tensor.name == PAST_KEY_VALUES for tensor in graph.spec.inputs)
    inputs = []
    for tensor in graph.spec.inputs:
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in tensor.axes]
        # Nothing cached, so that the new tokens fit the smallest window; a history has at least one token.
        value = 0 if is_decode and tensor.name == LENGTHS else 1
        inputs.append(torch.full(shape, value, dtype=_DTYPES[tensor.dtype]))
    return tuple(inputs)


class _SharedUser(nn.Embedding):
    """Stands for a user table of zeros: the same vector of zeros, (1, D), whoever asks."""

    def forward(self, user_rows: Tensor) -> Tensor:
        return torch.zeros_like(self.weight)


def _model_sizes(decoder: Decoder) -> dict[str, int]:
    config = decoder.config
    return {"L": config.num_blocks, "H": config.num_heads, "Dh": config.hidden_size // config.num_heads}
