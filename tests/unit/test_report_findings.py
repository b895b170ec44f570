from __future__ import annotations

from collections.abc import Mapping

from recgpt.bench import report_findings as findings
from recgpt.bench import report_losses as losses
from recgpt.bench.call_threads import DEFAULT, INSIDE, SHARED
from recgpt.bench.results import Fact, Result, Row


def row(name: str, took_ns: int = 1, **facts: Fact) -> Row:
    return Row(name=name, facts=facts, samples_ns=(took_ns,))


def result(*rows: Row, **method: object) -> Result:
    return Result(name="any", environment={}, method=method, rows=rows)


def peers_row(batch: int, **ratios: float) -> Row:
    peers: Mapping[str, Fact] = {
        f"ratio_to_{name}": ratios.get(name) for name in ("replay_float32", "replay", "recbole", "floor")
    }
    return row("recgpt, auto (2 steps)", batch=batch, **peers)


def test_bars_against_a_peer_are_met_or_missed_by_batch() -> None:
    ours = (
        peers_row(1, replay_float32=1.5, replay=0.5, floor=1.2),
        peers_row(32, replay_float32=2.5, replay=1.0, floor=0.9),
    )
    (said,) = findings.peers(result(*ours, row("recgpt, fused (2 steps)", batch=1)))
    assert "at 1 / 32 requests a call: RePlay compiled in float32 1.50 / 2.50; RePlay as it comes 0.50 / 1.00. " in said
    below = "twice as fast where it takes less than the floor (32)"
    assert f"at least as fast as RePlay compiled in float32 met, {below} met" in said
    assert f"at least as fast as RePlay as it comes missed at 1, {below} missed at 32." in said


def test_how_many_lists_of_replay_are_its_float32_models_is_told() -> None:
    theirs = (
        row("RePlay, compiled (1 step)", batch=batch, identical_lists=share) for batch, share in ((1, 0.5), (8, 1.0))
    )
    _, said = findings.peers(result(peers_row(1, replay=1.0), *theirs))
    assert said.endswith("50% to 100% of the lists are its float32 model's.")


def test_without_a_peer_there_is_no_bar() -> None:
    (said,) = findings.peers(result(peers_row(1, recbole=3.0)))
    assert said.endswith("at 1 requests a call: RecBole 3.00.")


def test_with_two_threads_the_same_bars_are_told() -> None:
    (said,) = findings.peers_2_threads(result(peers_row(256, replay_float32=2.5, replay=1.5, floor=0.4)))
    assert said.startswith("With two threads for everyone: RePlay compiled in float32 2.50; RePlay as it comes 1.50. ")
    assert said.endswith("twice as fast where it takes less than the floor (256) missed at 256.")


def test_what_threads_bring_is_told_by_catalogue_and_what_they_cost_among_the_losses() -> None:
    rows = [
        row(name, num_items=num_items, batch=batch, num_threads=2, ratio_to_one=ratio)
        for name, ratios in ((DEFAULT, (1.0, 1.5)), (INSIDE, (0.7, 1.2)), (SHARED, (1.0, 1.5)))
        for num_items in (1000, 2000)
        for batch, ratio in zip((1, 64), ratios, strict=True)
    ]
    (said,) = findings.call_threads(result(*rows))
    assert said.startswith(
        "With 2 threads a call the engine is this many times as fast as with one, at 1 / 64 requests"
    )
    assert said.endswith(": 1.00 / 1.50 over 1,000 items; 1.00 / 1.50 over 2,000 items.")
    assert list(losses.call_threads(result(*rows))) == [
        f"{INSIDE}, over {num_items} items: 0.70 times as fast as one thread, at 1 requests a call."
        for num_items in ("1,000", "2,000")
    ]


def interests(ratio_to_floor: float, identical_lists: float) -> str:
    facts = {"batch": 256, "history": 9, "num_interests": 6, "identical_lists": identical_lists}
    summary = dict.fromkeys(("num_cells_fused_is_fastest", "num_cells"), 1) | dict.fromkeys(
        ("mean_ratio_to_eager", "typical_ratio_to_floor", "longest_ratio_to_floor"), 2.0
    )
    measured = row("ONNX, fused", ratio_to_floor=ratio_to_floor, **facts)
    (said,) = findings.interests_latency(result(measured, summary=summary))
    return said


def test_interests_below_the_floor_are_told_only_where_all_lists_are_the_same() -> None:
    assert interests(0.87, 1.0).endswith("the same, for 256 requests, 9 items and 6 interests: 0.87 times it.")
    assert "below the floor" not in interests(0.87, 0.99) + interests(1.01, 1.0)


def test_a_cache_pays_or_harms_only_beyond_noise() -> None:
    rows = [row(name, ratio=ratio) for ratio in (0.9, 0.96, 1.04, 1.06, 2.0) for name in ("cached", "recomputed")]
    (said,) = findings.kv_cache(result(*rows))
    assert (
        "more than 5% faster than recomputing in 2 of 5 settings and slower in 1; in 2 there is no difference" in said
    )
    assert said.endswith("0.90 to 2.00 times as fast.")


def test_a_precision_saves_bytes_or_time_beyond_noise() -> None:
    took = {"float32": (100, 100), "float16": (80, 98), "int8": (50, 20)}
    num_bytes = {"float32": 10, "float16": 5, "int8": 12}
    rows = [
        row(name, ns, batch=batch, graph_bytes=num_bytes[name], identical_lists=1 - batch / 1000)
        for name, times in took.items()
        for batch, ns in zip((1, 32), times, strict=True)
    ]
    (said,) = findings.precision(result(row("eager, recompute", 500, batch=1), *rows))
    assert "float16 saves bytes and time at 1 (0.50 times the bytes, 1.25 / 1.02 times as fast, at least 96.8%" in said
    assert "int8 saves time at 1 / 32 (1.20 times the bytes, 2.00 / 5.00 times as fast" in said
