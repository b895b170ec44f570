"""What the scripts of peers share: the line protocol of ``recgpt.bench.peer``, and a clock between the steps of a call.

Runs in a peer's environment, with PyTorch and without recgpt. First line in: sizes and batch sizes; out: versions.
Later ones in: {"way": .., "histories": [[item, ..], ..], "k": ..}, items being 1..V; out: the time of each stage and
the items.
"""

from __future__ import annotations

import gc
import importlib.metadata
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Sizes = Mapping[str, Any]
Step = Callable[[Any, int], Any]
Way = Mapping[str, Step]
"""Stage -> what makes its output of the output before it and of k; histories go in first, lists of items come out last.

Stages are named as ours: encode makes tensors of lists, interests ends with the scores of all items, search finds the
best of them, merge makes lists of items of that.
"""

TOP_K: Way = {
    "search": lambda scores, k: scores.topk(k, dim=1).indices,
    "merge": lambda positions, k: (positions + 1).tolist(),
}
"""What follows the scores (B, V) of items 1..V."""


def answer(make_ways: Callable[[Sizes], Mapping[str, Way]], packages: Sequence[str]) -> None:
    """Answers until its input ends.

    Args:
        make_ways: loads the model, with random weights, and says by which ways it can be asked.
        packages: whose versions are told.
    """
    warnings.simplefilter("ignore")
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    sizes = json.loads(sys.stdin.readline())
    torch.set_num_threads(sizes["num_threads"])
    torch.manual_seed(0)
    ways = make_ways(sizes)
    versions = {name: importlib.metadata.version(name) for name in packages}
    # As on our side: no call waits while Python looks for garbage in what was loaded.
    gc.collect()
    gc.freeze()
    print(json.dumps({"versions": versions}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        with torch.inference_mode():
            stages_ns, items = _timed(ways[asked["way"]], asked["histories"], asked["k"])
        print(json.dumps({"stages_ns": stages_ns, "items": items}), file=answers, flush=True)


def _timed(way: Way, histories: list[list[int]], k: int) -> tuple[dict[str, int], list[list[int]]]:
    value: Any = histories
    clock = [time.perf_counter_ns()]
    for step in way.values():
        value = step(value, k)
        clock.append(time.perf_counter_ns())
    return dict(zip(way, [after - before for before, after in itertools.pairwise(clock)], strict=True)), value
