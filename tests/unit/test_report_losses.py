from __future__ import annotations

from recgpt.bench import report_losses as losses
from recgpt.bench.results import Fact, Result, Row


def row(name: str, took_ms: float, **facts: Fact) -> Row:
    took_ns = int(took_ms * 1e6)
    return Row(name=name, facts=facts, samples_ns=(took_ns,), stages_ns={"merge": (took_ns,)})


def result(*rows: Row, **method: object) -> Result:
    return Result(name="any", environment={}, method=method, rows=rows)


def test_a_way_for_every_batch_is_told_where_the_engine_is_faster() -> None:
    took = {"eager": (9, 9), "engine": (2, 2), "engine, KV cache": (2, 2), "engine, in-graph top-k": (1, 4)}
    rows = [row(name, ms, batch=batch) for name, both in took.items() for batch, ms in zip((1, 32), both, strict=True)]
    assert list(losses.recall_latency(result(*rows))) == [
        "engine, in-graph top-k, for every batch: 0.50 times as fast as the engine by default, at 32 requests a call."
    ]


def test_plain_baselines_of_interests_are_no_attempts() -> None:
    took = {"eager, recompute": 9, "TorchScript": 4, "ONNX, stepwise": 4, "ONNX, fused": 2}
    rows = [row(name, ms, batch=1, history=9, num_interests=2) for name, ms in took.items()]
    assert list(losses.interests_latency(result(*rows, missing={"torch.compile": "no compiler"}))) == [
        "ONNX, stepwise, on a KV cache: 0.50 times as fast as the fused graph.",
        "torch.compile was not measured: no compiler.",
    ]


def grown(layout: str, index: str, num_items: int, took_ms: float, num_threads: int = 1) -> Row:
    facts = {"layout": layout, "index": index, "num_items": num_items, "num_threads": num_threads, "batch": 1}
    return row("any", took_ms, **facts, ratio_to_reference=4 / took_ms)


def test_approximate_search_is_told_where_the_fastest_exact_one_is_faster_on_one_thread() -> None:
    rows = [
        grown("fused", "flat", 10, 4),
        grown("graph", "flat", 10, 2),
        grown("index", "hnsw", 10, 4),
        grown("index", "ivf", 10, 1),
        grown("fused", "flat", 90, 4),
        grown("graph", "flat", 90, 8),
        grown("index", "hnsw", 90, 3),
        grown("fused", "flat", 90, 1, num_threads=2),
    ]
    assert list(losses.growth(result(*rows))) == [
        "Approximate search in 10 items, times as fast as the fastest exact way: hnsw 0.50; slower in 1 of 1 settings.",
        "One graph for search and merge over 90 items: 0.50 times as fast as the fused graph.",
    ]


def test_a_cache_did_not_help_where_it_is_no_faster() -> None:
    base = {"max_length": 50, "hidden_size": 64, "num_blocks": 1, "num_items": 9}
    settings = [(1, 0.8, base), (2, 1.04, base), (3, 1.2, base), (6, 0.5, base | {"max_length": 25})]
    rows = [
        row(name, 1, task="interests", batch=32, number=number, ratio=ratio, **sizes)
        for number, ratio, sizes in settings
        for name in ("cached", "recomputed")
    ]
    assert list(losses.kv_cache(result(*rows, parameters={"base": base}))) == [
        "A KV cache for interests in batches of 32, at 1 / 2 of them: 0.80 to 1.04 times as fast as recomputing."
    ]
