"""RePlay's compiled SASRec as a process that ``benchmarks/peers.py`` times: one JSON a line in, one a line out.

Runs in an environment of its own, with replay-rec[torch] and openvino, and without recgpt.
First line: sizes and batch sizes. Later ones: {"way": .., "histories": [[item, ..], ..], "k": ..}; the answer holds the
time of each stage and the items.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from replay.data import FeatureHint, FeatureSource, FeatureType
from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
from replay.models.nn.sequential import SasRec
from replay.models.nn.sequential.compiled import SasRecCompiled

ITEM = "item_id"
# As of ours: making tensors, the model with its scores of all items, the best of them, ids.
STAGES = ("encode", "interests", "search", "merge")
PACKAGES = ("replay-rec", "openvino", "torch")

Predict = Callable[[dict[str, Any]], torch.Tensor]


def main() -> None:
    """Answers until its input ends."""
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    sizes = json.loads(sys.stdin.readline())
    torch.set_num_threads(sizes["num_threads"])
    ways = _ways(sizes)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    print(json.dumps({"versions": versions}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        predict = ways[asked["way"], len(asked["histories"])]
        clock = [time.perf_counter_ns()]
        batch = _batch(asked["histories"], sizes["max_length"], sizes["num_items"])
        clock.append(time.perf_counter_ns())
        with torch.inference_mode():
            scores = predict(batch)
            clock.append(time.perf_counter_ns())
            best = scores.topk(asked["k"], dim=1).indices
        clock.append(time.perf_counter_ns())
        items = (best + 1).tolist()
        clock.append(time.perf_counter_ns())
        stages = dict(zip(STAGES, [after - before for before, after in itertools.pairwise(clock)], strict=True))
        print(json.dumps({"stages_ns": stages, "items": items}), file=answers, flush=True)


def _ways(sizes: dict[str, Any]) -> dict[tuple[str, int], Predict]:
    """What scores all items, by its name and the size of a batch."""
    torch.manual_seed(0)
    model = SasRec(
        _schema(sizes["num_items"], sizes["hidden_size"]),
        block_count=sizes["num_blocks"],
        head_count=sizes["num_heads"],
        hidden_size=sizes["hidden_size"],
        max_seq_len=sizes["max_length"],
    ).eval()
    ways: dict[tuple[str, int], Predict] = {}
    for size in sizes["batch_sizes"]:
        compiled = SasRecCompiled.compile(model, mode="batch", batch_size=size, num_threads=sizes["num_threads"])
        ways["compiled", size] = compiled.predict
        ways["eager", size] = model.predict
    return ways


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


def _batch(histories: list[list[int]], width: int, padding: int) -> dict[str, Any]:
    """Left-padded items 0..V-1, as RePlay takes them; of histories of items 1..V."""
    rows = [[padding] * (width - len(history)) + [item - 1 for item in history] for history in histories]
    items = torch.tensor(rows)
    return {"feature_tensor": {ITEM: items}, "features": {ITEM: items}, "padding_mask": items != padding}


if __name__ == "__main__":
    main()
