"""Refuses, inside an exported graph, values that a runtime would take for others.

Whoever speaks to a server past this package's clients can send any number. ONNX Runtime's operators on the CPU refuse
rows beyond a table, but count negative ones from its end: user -1 would get the answer of the last user. And attention
over a history takes memory by the square of its width, before anything else notices that it is wider than the window.

Knows the inputs of a graph; nothing of what it does with them.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from recgpt.graphs.modules import Decode
from recgpt.graphs.recall import Graph, Recall, ScannedRecall

# Far beyond every table, and no divisor of the ends of int64: the remainder of a negative number lies beyond too. One
# operator, where a comparison and a choice would be two.
_BEYOND = 5 * 10**18

# No catalogue has more items, and sums of a few such quotas are far from the end of int64.
_MOST = 2**31


def guarded(graph: Graph) -> nn.Module:
    """The graph with its inputs checked: it fails where one holds what no caller may mean, and is the same otherwise.

    Refused, beside what lies beyond a table: negative users, items, segments and exclusions, histories wider than the
    window, lengths below 1 (of ``decode``: below 0, or more than are cached), quotas below 0 or beyond all catalogues.
    """
    guards: dict[type, type[_Guarded]] = {
        Decode: _GuardedDecode,
        Recall: _GuardedRecall,
        ScannedRecall: _GuardedRecall,
    }
    return guards.get(type(graph), _GuardedHistory)(graph).train(graph.training)


class _Guarded(nn.Module):
    window: Tensor

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.guarded = graph
        window = torch.full((1, graph.decoder.config.max_length), _BEYOND)
        self.register_buffer("window", window, persistent=False)

    def _checked(self, input_ids: Tensor) -> Tensor:
        # The slice ends with the window, so that a wider history does not fit to it.
        return input_ids % self.window[:, : input_ids.shape[1]]


class _GuardedHistory(_Guarded):
    def forward(
        self, user_ids: Tensor, input_ids: Tensor, segment_ids: Tensor, lengths: Tensor, excluded_ids: Tensor
    ) -> tuple[Tensor, ...]:
        output = self.guarded(
            user_ids % _BEYOND,
            self._checked(input_ids),
            segment_ids % _BEYOND,
            lengths.where(lengths >= 1, _BEYOND),
            excluded_ids % _BEYOND,
        )
        return cast("tuple[Tensor, ...]", output)


class _GuardedRecall(_Guarded):
    def forward(
        self,
        user_ids: Tensor,
        input_ids: Tensor,
        segment_ids: Tensor,
        lengths: Tensor,
        excluded_ids: Tensor,
        quotas: Tensor,
    ) -> tuple[Tensor, ...]:
        fits = (lengths >= 1) & ((quotas % _BEYOND).amax(dim=1, keepdim=True) <= _MOST)
        output = self.guarded(
            user_ids % _BEYOND,
            self._checked(input_ids),
            segment_ids % _BEYOND,
            lengths.where(fits, _BEYOND),
            excluded_ids % _BEYOND,
            quotas,
        )
        return cast("tuple[Tensor, ...]", output)


class _GuardedDecode(_Guarded):
    def forward(
        self,
        user_ids: Tensor,
        input_ids: Tensor,
        segment_ids: Tensor,
        lengths: Tensor,
        excluded_ids: Tensor,
        past_key_values: Tensor,
    ) -> tuple[Tensor, ...]:
        fits = (lengths >= 0) & (lengths <= past_key_values.shape[4])
        output = self.guarded(
            user_ids % _BEYOND,
            self._checked(input_ids),
            segment_ids % _BEYOND,
            lengths.where(fits, _BEYOND),
            excluded_ids % _BEYOND,
            past_key_values,
        )
        return cast("tuple[Tensor, ...]", output)
