"""The reference: plain PyTorch, and interests without any cache.

``prefill`` and ``decode`` run the modules that are exported; ``interests`` recomputes the whole sequence for every step
by ``Decoder.forward``, so that it is an oracle for all graphs that cache.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor

from recgpt.backends.base import ModelSpec
from recgpt.backends.graph_backend import GraphBackend
from recgpt.backends.tensors import NamedArrays
from recgpt.backends.torch_graphs import Runnable, run_graph
from recgpt.graphs.modules import Decode, NextItem, Prefill, stack_steps
from recgpt.model.decoder import Decoder
from recgpt.model.item_table import PADDING_ROW
from recgpt.signature import DECODE, PREFILL, GraphSpec, interests_spec, recall_spec
from recgpt.types import PROMPT


class EagerBackend(GraphBackend):
    """Runs a copy of a decoder, on the device it is on. Safe to call from several threads.

    Args:
        decoder: not changed, nor do later changes of its weights show.
        fused: the numbers of interests for which ``interests`` is offered.
        recalls: the numbers of interests for which ``recall`` is offered.
    """

    def __init__(self, decoder: Decoder, *, fused: Iterable[int] = (1, 2, 6), recalls: Iterable[int] = ()) -> None:
        super().__init__(model_spec(decoder), fused, dict.fromkeys(recalls, decoder.num_items))
        self._decoder = copy.deepcopy(decoder).eval()
        self._decoder.make_plain()
        self._modules: dict[str, Runnable] = {
            PREFILL.name: Prefill(self._decoder).eval(),
            DECODE.name: Decode(self._decoder).eval(),
            **{interests_spec(number).name: _Recompute(self._decoder, number) for number in self.fused},
            **{recall_spec(number).name: _SortAll(self._decoder, number) for number in self.recalls},
        }

    def close(self) -> None:
        """Nothing to let go of."""

    def _run(self, graph: GraphSpec, feeds: NamedArrays) -> NamedArrays:
        return run_graph(self._modules[graph.name], graph, feeds, self._decoder.item_matrix.device)


def model_spec(decoder: Decoder) -> ModelSpec:
    """Sizes of a decoder."""
    config = decoder.config
    return ModelSpec(
        num_items=decoder.num_items,
        num_users=decoder.num_users,
        max_length=config.max_length,
        hidden_size=config.hidden_size,
        num_blocks=config.num_blocks,
        num_heads=config.num_heads,
    )


class _Recompute:
    """The loop of ``Interests`` by the sequence alone: append the best item, run everything again."""

    def __init__(self, decoder: Decoder, num_interests: int) -> None:
        self._decoder = decoder
        self._next_item = NextItem(decoder)
        self._num_interests = num_interests

    def __call__(
        self, user_ids: Tensor, items: Tensor, segments: Tensor, lengths: Tensor, excluded: Tensor
    ) -> tuple[Tensor, ...]:
        # Cut to the longest history: padding beyond it would only push positions out of the window.
        longest = int(lengths.max())
        room = items.new_zeros(len(items), self._num_interests - 1)
        items = torch.cat([items[:, :longest], room], dim=1)
        segments = torch.cat([segments[:, :longest], room], dim=1)
        rows = torch.arange(len(items), device=items.device)
        interests: list[Tensor] = []
        generated: list[Tensor] = []
        for step in range(self._num_interests):
            last = lengths[:, 0] + step - 1
            hidden = self._decoder(user_ids[:, 0], items[:, : longest + step], segments[:, : longest + step])
            interests.append(hidden[rows, last])
            if step < self._num_interests - 1:
                generated.append(self._next_item(interests[-1], excluded))
                excluded = torch.cat([excluded, generated[-1]], dim=1)
                items[rows, last + 1] = generated[-1][:, 0]
                segments[rows, last + 1] = PROMPT
        return stack_steps(interests, generated)


class _SortAll:
    """``recall_J`` by a sort of all scores of each step, and a walk down the lists."""

    def __init__(self, decoder: Decoder, num_interests: int) -> None:
        self._decoder = decoder
        self._interests = _Recompute(decoder, num_interests)

    def __call__(
        self, user_ids: Tensor, items: Tensor, segments: Tensor, lengths: Tensor, excluded: Tensor, quotas: Tensor
    ) -> tuple[Tensor, ...]:
        interests, *generated = self._interests(user_ids, items, segments, lengths, excluded)
        scores = interests @ self._decoder.item_matrix.T
        # Stable, so that the lower row comes first among equals.
        order = scores.argsort(dim=2, descending=True, stable=True)
        rows = torch.zeros((len(items), scores.shape[2] - 1), dtype=torch.int64, device=items.device)
        values, steps = torch.zeros_like(rows, dtype=scores.dtype), torch.zeros_like(rows)
        for request, wanted in enumerate(quotas.tolist()):
            taken = {PADDING_ROW, *excluded[request].tolist()}
            place = 0
            for step, quota in enumerate(wanted):
                for row in [row for row in order[request, step].tolist() if row not in taken][:quota]:
                    rows[request, place], steps[request, place] = row, step + 1
                    values[request, place] = scores[request, step, row]
                    taken.add(row)
                    place += 1
        return (rows, values, steps, *generated)
