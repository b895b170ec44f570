"""RePlay's SASRec, compiled by OpenVINO and eager, as a process that ``benchmarks/peers.py`` times.

Runs in an environment of its own, with replay-rec[torch] and openvino, and without recgpt.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from peer_loop import TOP_K, Sizes, Way, answer
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.models.nn.sequential import SasRec
from replay.models.nn.sequential.compiled import SasRecCompiled

ITEM = "item_id"


def ways(sizes: Sizes) -> Mapping[str, Way]:
    """``compiled``, one graph for each size of a batch; ``eager``, the same model in PyTorch."""
    model = SasRec(
        _schema(sizes["num_items"], sizes["hidden_size"]),
        block_count=sizes["num_blocks"],
        head_count=sizes["num_heads"],
        hidden_size=sizes["hidden_size"],
        max_seq_len=sizes["max_length"],
    ).eval()
    compiled = {
        size: SasRecCompiled.compile(model, mode="batch", batch_size=size, num_threads=sizes["num_threads"])
        for size in sizes["batch_sizes"]
    }
    encode = partial(_batch, width=sizes["max_length"], padding=sizes["num_items"])
    return {
        "compiled": {
            "encode": encode,
            "interests": lambda batch, k: compiled[len(batch["padding_mask"])].predict(batch),
            **TOP_K,
        },
        "eager": {"encode": encode, "interests": lambda batch, k: model.predict(batch), **TOP_K},
    }


def _schema(num_items: int, size: int) -> TensorSchema:
    return TensorSchema(
        TensorFeatureInfo(
            name=ITEM,
            feature_type=FeatureType.CATEGORICAL,
            is_seq=True,
            cardinality=num_items,
            padding_value=num_items,
            embedding_dim=size,
            feature_hint=FeatureHint.ITEM_ID,
            feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)],
        )
    )


def _batch(histories: list[list[int]], k: int, *, width: int, padding: int) -> dict[str, Any]:
    """Left-padded items 0..V-1, as RePlay takes them; of histories of items 1..V."""
    rows = [[padding] * (width - len(history)) + [item - 1 for item in history] for history in histories]
    items = torch.tensor(rows)
    return {"feature_tensor": {ITEM: items}, "features": {ITEM: items}, "padding_mask": items != padding}


if __name__ == "__main__":
    answer(ways, packages=("replay-rec", "openvino", "torch"))
