"""What the README says of speed, made from the results alone, so that a test can hold it to them."""

from __future__ import annotations

from collections.abc import Sequence

from recgpt.bench.call_threads import DEFAULT
from recgpt.bench.contenders import ENGINE
from recgpt.bench.layouts import ENGINE as SERVED
from recgpt.bench.peers_report import REPLAY_COMPILED, default_rows
from recgpt.bench.results import Result, Row
from recgpt.bench.tables import significant
from recgpt.recall.layout import LEAST_SHARE
from recgpt.tables import markdown_table


def speed_table(latency: Result, concurrency: Result) -> str:
    """Medians of the engine by batch; of one request also when nothing else runs between the calls."""
    alone = significant(concurrency.rows[0].latency_ms["p50"])
    notes = {1: f"; {alone} ms when nothing else runs between the calls (`benchmarks/concurrency.py`)"}
    rows = [
        (str(batch), f"{significant(row.latency_ms['p50'])} ms{notes.get(batch, '')}", "not measured")
        for row in _engine(latency)
        for batch in (int(row.facts["batch"] or 0),)
    ]
    return markdown_table(("requests a call", "p50 on two CPU cores, one thread", "p50 on a GPU"), rows)


def speedup(latency: Result) -> str:
    """How many times as fast as PyTorch, by batch."""
    rows = _engine(latency)
    ratios = [f"{float(row.facts['ratio_to_eager'] or 0):.1f}" for row in rows]
    batches = [str(row.facts["batch"]) for row in rows]
    return f"The engine is {_and(ratios)} times as fast as PyTorch that recomputes, at {_and(batches)} requests a call"


def peers_table(peers: Result, two_threads: Result, avx2: Result) -> str:
    """How many times as fast as each peer, by batch.

    Args:
        peers: one thread for everyone.
        two_threads: two of them.
        avx2: one, on a processor that helps neither.
    """
    rows, both = default_rows(peers), default_rows(two_threads)
    same = [float(row.facts["identical_lists"] or 0) for row in peers.rows if row.name == REPLAY_COMPILED]
    alike = f"{100 * min(same):.0f} to {max(same):.0%}"
    commit = str(avx2.environment["commit"])[:7]
    lines = (
        ("RePlay's SASRec, compiled by OpenVINO, in float32", rows, "ratio_to_replay_float32"),
        ("the same, two threads for each", both, "ratio_to_replay_float32"),
        (f"in bfloat16, its default here: {alike} of its lists are its float32 model's", rows, "ratio_to_replay"),
        ("the same, two threads for each", both, "ratio_to_replay"),
        (
            f"in float32 on a processor without AVX-512 and bfloat16, by the engine of commit {commit}",
            default_rows(avx2),
            "ratio_to_replay_float32",
        ),
        ("RecTools' SASRec", rows, "ratio_to_rectools"),
        ("RecBole's SASRec", rows, "ratio_to_recbole"),
    )
    first, *others = (str(row.facts["batch"]) for row in rows)
    heading = ("times as fast as", f"{first} request a call", *others)
    body = [(name, *(significant(float(row.facts[fact] or 0)) for row in measured)) for name, measured, fact in lines]
    return markdown_table(heading, body)


def shared_calls(threads: Result) -> str:
    """What two threads bring to calls of many requests over the smallest catalogue."""
    rows = [row for row in threads.rows if row.name == DEFAULT]
    least = min(int(row.facts["num_items"] or 0) for row in rows)
    shared = [
        row for row in rows if row.facts["num_items"] == least and int(row.facts["batch"] or 0) >= 2 * LEAST_SHARE
    ]
    ratios = _and([significant(float(row.facts["ratio_to_one"] or 0)) for row in shared])
    return f"{ratios} times as fast at {_and([str(row.facts['batch']) for row in shared])} requests a call"


def served_rates(load: Result) -> str:
    """The highest rates of `recall_engine`, by size of the catalogue."""
    first, *others = [
        (f"{found['met']:,}", f"{found['num_items']:,}")
        for found in load.method["highest"]
        if found["layout"] == SERVED
    ]
    return ", ".join(
        [f"{first[0]} requests a second over {first[1]} items", *(f"{met} over {items}" for met, items in others)]
    )


def _engine(latency: Result) -> list[Row]:
    return [row for row in latency.rows if row.stages_ns and row.name == ENGINE]


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
