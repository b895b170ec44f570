"""RePlay's SASRec, compiled by OpenVINO and eager, as a process that ``benchmarks/peers.py`` times.

Runs in an environment of its own, with replay-rec[torch] and openvino, and without recgpt.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import openvino
import torch
from peer_loop import TOP_K, Sizes, Way, answer
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.models.nn.sequential import SasRec
from replay.models.nn.sequential.compiled import SasRecCompiled

ITEM = "item_id"


def ways(sizes: Sizes) -> Mapping[str, Way]:
    """``eager`` in PyTorch; ``compiled``, one graph for each size of a batch; ``float32``, the same told its precision.

    Left to itself, OpenVINO computes in bfloat16 where the processor can.
    """
    schema = _schema(sizes["num_items"], sizes["hidden_size"])
    model = SasRec(
        schema,
        block_count=sizes["num_blocks"],
        head_count=sizes["num_heads"],
        hidden_size=sizes["hidden_size"],
        max_seq_len=sizes["max_length"],
    ).eval()
    compiled, float32 = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = str(Path(folder) / "model.onnx")
        for size in sizes["batch_sizes"]:
            compiled[size] = SasRecCompiled.compile(
                model, mode="batch", batch_size=size, num_threads=sizes["num_threads"], onnx_path=onnx_path
            )
            float32[size] = _float32(onnx_path, schema, (size, sizes["max_length"]), sizes["num_threads"])
    encode = partial(_batch, width=sizes["max_length"], padding=sizes["num_items"])

    def way(models: Mapping[int, Any]) -> Way:
        return {
            "encode": encode,
            "interests": lambda batch, k: models[len(batch["padding_mask"])].predict(batch),
            **TOP_K,
        }

    return {
        "eager": way(dict.fromkeys(sizes["batch_sizes"], model)),
        "compiled": way(compiled),
        "float32": way(float32),
    }


def _float32(onnx_path: str, schema: TensorSchema, shape: tuple[int, int], num_threads: int) -> SasRecCompiled:
    """As ``SasRecCompiled.compile``, which has no option for the precision."""
    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": num_threads, "INFERENCE_PRECISION_HINT": "f32"})
    graph = openvino.convert_model(onnx_path, input=[(ITEM, list(shape)), ("padding_mask", list(shape))])
    return SasRecCompiled(core.compile_model(graph, "CPU"), schema)


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
