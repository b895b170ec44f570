"""RecTools' SASRec, by its PyTorch modules and by ``recommend``, as a process that ``benchmarks/peers.py`` times.

Runs in an environment of its own, with rectools[torch], and without recgpt.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from peer_loop import TOP_K, Sizes, Way, answer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


def ways(sizes: Sizes) -> Mapping[str, Way]:
    """``modules``: what ``recommend`` runs, on tensors; ``recommend``: the public call, from tables to tables.

    Two things make ``modules`` faster without other answers than those of ``recommend``: the table of item vectors,
    which ``recommend`` puts together in each call, is kept, and a batch is padded to its longest history. The model
    counts positions from the newest item and is told to mask the padding, so that its width changes nothing.
    """
    model = _model(sizes)
    modules = model.torch_model.eval()
    with torch.inference_mode():
        item_vectors = modules.item_model.get_all_embeddings()

    def scores(items: torch.Tensor, k: int) -> torch.Tensor:
        last = modules.encode_sessions({"x": items}, item_vectors)[:, -1]
        found: torch.Tensor = modules.similarity_module(last, item_vectors[1:])  # row 0 is padding
        return found

    def recommended(dataset: Dataset, k: int) -> pd.DataFrame:
        users = dataset.user_id_map.external_ids
        return model.recommend(users=users, dataset=dataset, k=k, filter_viewed=False, add_rank_col=False)

    return {
        "modules": {"encode": _left_padded, "interests": scores, **TOP_K},
        # The search cannot be told apart from the rest of the call.
        "recommend": {
            "encode": _dataset,
            "interests": recommended,
            "merge": lambda table, k: table[Columns.Item].to_numpy().reshape(-1, k).tolist(),
        },
    }


def _model(sizes: Sizes) -> SASRecModel:
    """Fitted for no epoch on users who each saw one item twice, so that it knows all items and keeps random weights."""
    model = SASRecModel(
        n_blocks=sizes["num_blocks"],
        n_heads=sizes["num_heads"],
        n_factors=sizes["hidden_size"],
        session_max_len=sizes["max_length"],
        use_key_padding_mask=True,
        recommend_batch_size=max(sizes["batch_sizes"]),
        recommend_torch_device="cpu",
        epochs=0,
    )
    items = np.arange(1, sizes["num_items"] + 1)
    model.fit(_dataset([[item, item] for item in items.tolist()], 0))
    known = model.data_preparator.item_id_map.get_external_sorted_by_internal()
    if not np.array_equal(known[1:], items):
        sys.exit("RecTools numbers the items otherwise than 1..V, with the padding at 0")
    return model


def _left_padded(histories: list[list[int]], k: int) -> torch.Tensor:
    width = max(map(len, histories))
    return torch.tensor([[0] * (width - len(history)) + history for history in histories])


def _dataset(histories: list[list[int]], k: int) -> Dataset:
    """One user a history, from 0 on; the order of the rows stands for time."""
    lengths = [len(history) for history in histories]
    table = {
        Columns.User: np.repeat(np.arange(len(histories)), lengths),
        Columns.Item: np.concatenate(histories),
        Columns.Weight: 1.0,
        Columns.Datetime: pd.to_datetime(np.arange(sum(lengths))),
    }
    return Dataset.construct(pd.DataFrame(table))


if __name__ == "__main__":
    answer(ways, packages=("rectools", "torch"))
