"""What each benchmark found, in a sentence or two: the short answer above its tables. Knows rows, no Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from recgpt.bench.call_threads import DEFAULT
from recgpt.bench.growth import REFERENCE
from recgpt.bench.growth_report import on_fewest_threads
from recgpt.bench.interest_contenders import FUSED
from recgpt.bench.peers_report import AGAINST, REPLAY_COMPILED, default_rows
from recgpt.bench.report_sections import grouped
from recgpt.bench.report_words import NOISE, is_faster, is_slower, listed, spread
from recgpt.bench.results import Fact, Result, Row
from recgpt.bench.searchers import FAISS, SCAN
from recgpt.bench.tables import significant
from recgpt.graphs.onnx_writer import Precision
from recgpt.recall.index_fit import FOUND

Finding = Callable[[Result], Iterable[str]]


def recall_latency(result: Result) -> Iterator[str]:
    """The engine against PyTorch, by batch."""
    rows = [row for row in result.rows if row.stages_ns and row.name == "engine"]
    same = min(float(row.facts["identical_lists"] or 0) for row in rows)
    yield (
        f"Two-step recall by the engine is {_facts(rows, 'ratio_to_eager')} times as fast as PyTorch that recomputes, "
        f"at {_facts(rows, 'batch')} requests a call; {same:.1%} of the lists are the same."
    )


def peers(result: Result) -> Iterator[str]:
    """What the engine does by default against each peer's fastest way, by batch, and which bars that meets."""
    ours = default_rows(result)
    yield (
        f"Our two steps are this many times as fast as one step of others, at {_facts(ours, 'batch')} requests a call: "
        f"{_ratios_to_peers(ours)}.{_bars(ours)}"
    )
    same = [float(row.facts["identical_lists"] or 0) for row in result.rows if row.name == REPLAY_COMPILED]
    if same:
        yield (
            f"Of RePlay as it comes, which computes in bfloat16 where the processor can, {min(same):.0%} to "
            f"{max(same):.0%} of the lists are its float32 model's."
        )


def peers_2_threads(result: Result) -> Iterator[str]:
    """The same with both cores for everyone."""
    ours = default_rows(result)
    yield f"With two threads for everyone: {_ratios_to_peers(ours)}.{_bars(ours)}"


def peers_avx2(result: Result) -> Iterator[str]:
    """The same where neither is helped by the processor."""
    ours = default_rows(result)
    commit = str(result.environment["commit"])[:7]
    yield f"On a processor without AVX-512 and bfloat16, by the engine of commit {commit}: {_ratios_to_peers(ours)}."


def _peers_there(ours: Sequence[Row]) -> Mapping[str, str]:
    return {name: fact for name, fact in AGAINST.items() if ours[0].facts.get(fact) is not None}


def _ratios_to_peers(ours: Sequence[Row]) -> str:
    return "; ".join(f"{name} {_facts(ours, fact)}" for name, fact in _peers_there(ours).items())


def _bars(ours: Sequence[Row]) -> str:
    bars = "; ".join(
        f"at least as fast as {name} {_judged(ours, fact, 1)}{_twice_below_the_floor(ours, fact)}"
        for name, fact in _peers_there(ours).items()
        if name.startswith("RePlay")
    )
    return f" Bars: {bars}." if bars else ""


def _judged(rows: Sequence[Row], fact: str, least: float) -> str:
    missed = [row.facts["batch"] for row in rows if float(row.facts[fact] or 0) < least]
    return f"missed at {listed(missed)}" if missed else "met"


def _twice_below_the_floor(rows: Sequence[Row], fact: str) -> str:
    below = [row for row in rows if float(row.facts.get("ratio_to_floor") or 1) < 1]
    if not below:
        return ""
    return f", twice as fast where it takes less than the floor ({_facts(below, 'batch')}) {_judged(below, fact, 2)}"


def interests_latency(result: Result) -> Iterator[str]:
    """The fused graph against PyTorch and the floor."""
    found = result.method["summary"]
    fused = [row for row in result.rows if row.name == FUSED and row.facts["identical_lists"] == 1]
    below = "".join(
        "; below the floor, with all lists the same, for {batch} requests, {history} items and {num_interests} "
        "interests: {ratio_to_floor:.2f} times it".format_map(row.facts)
        for row in fused
        if float(row.facts["ratio_to_floor"] or 0) < 1
    )
    yield (
        f"Interests by the fused graph are the fastest in {found['num_cells_fused_is_fastest']} of "
        f"{found['num_cells']} settings, {significant(found['mean_ratio_to_eager'])} times as fast as PyTorch in the "
        "geometric mean; in batches they take at most "
        f"{significant(found['typical_ratio_to_floor'])} times the floor of dense products with short histories, "
        f"{significant(found['longest_ratio_to_floor'])} times with the longest{below}."
    )


def item_search(result: Result) -> Iterator[str]:
    """The search that is used against all that were tried."""
    used = [row for row in result.rows if row.name == SCAN]
    settings = ("num_items", "num_queries", "k")
    fastest: dict[tuple[Fact, ...], Row] = {}
    for row in result.rows:
        setting = tuple(row.facts[name] for name in settings)
        fastest[setting] = min(row, fastest.get(setting, row), key=lambda one: one.latency_ms["p50"])
    wins = sum(row.name == SCAN for row in fastest.values())
    yield (
        f"Exact search by {SCAN} is {spread(float(row.facts['ratio_to_faiss'] or 0) for row in used)} times as fast as "
        f"{FAISS}, and the fastest of all ways that were tried in {wins} of {len(used)} settings."
    )


def growth(result: Result) -> Iterator[str]:
    """The fastest way for one request, exact and approximate, by size of the catalogue."""
    single = [row for row in on_fewest_threads(result) if row.facts["batch"] == 1]
    threads = int(single[0].facts["num_threads"] or 0)
    for num_items in dict.fromkeys(row.facts["num_items"] for row in single):
        rows = [row for row in single if row.facts["num_items"] == num_items]
        exact = _fastest(row for row in rows if row.facts["index"] == REFERENCE.kind)
        other = _fastest(row for row in rows if row.facts["index"] != REFERENCE.kind)
        share = float(other.facts[f"ann_recall_at_{FOUND}"] or 0)
        yield (
            f"{num_items:,} items, one request, {threads} thread{'s' if threads > 1 else ''}: p90 "
            f"{significant(exact.latency_ms['p90'])} ms by {exact.name}, {significant(other.latency_ms['p90'])} ms by "
            f"{other.name}, which finds {share:.1%} of the exact answer."
        )


def concurrency(result: Result) -> Iterator[str]:
    """Throughput by client threads."""
    best = max(result.rows, key=lambda row: float(row.facts["throughput"] or 0))
    yield (
        f"One thread asks {float(result.rows[0].facts['throughput'] or 0):,.0f} requests/s of one engine, "
        f"{best.facts['clients']} threads {float(best.facts['throughput'] or 0):,.0f}."
    )


def call_threads(result: Result) -> Iterator[str]:
    """What the engine makes of several threads, by size of the catalogue."""
    rows = [row for row in result.rows if row.name == DEFAULT]
    by_size = grouped(rows, "num_items")
    parts = [
        f"{listed(float(row.facts['ratio_to_one'] or 0) for row in found)} over {num_items:,} items"
        for num_items, found in by_size.items()
    ]
    batches = _facts(next(iter(by_size.values())), "batch")
    yield (
        f"With {rows[0].facts['num_threads']} threads a call the engine is this many times as fast as with one, at "
        f"{batches} requests a call: {'; '.join(parts)}."
    )


def precision(result: Result) -> Iterator[str]:
    """What each of the other precisions saves beside float32: bytes, or time at which batches."""
    of = {kind: [row for row in result.rows if row.name == kind] for kind in Precision}
    plain = of.pop(Precision.FLOAT32)
    parts = []
    for kind, rows in of.items():
        share = float(rows[0].facts["graph_bytes"] or 0) / float(plain[0].facts["graph_bytes"] or 1)
        pairs = zip(plain, rows, strict=True)
        times = {row.facts["batch"]: other.latency_ms["p50"] / row.latency_ms["p50"] for other, row in pairs}
        faster = [batch for batch, ratio in times.items() if is_faster(ratio)]
        gains = (["bytes"] if share < 1 else []) + ([f"time at {listed(faster)}"] if faster else [])
        same = min(float(row.facts["identical_lists"] or 0) for row in rows)
        parts.append(
            f"{kind} saves {' and '.join(gains) or 'nothing'} ({share:.2f} times the bytes, {listed(times.values())} "
            f"times as fast, at least {same:.1%} of the lists the same)"
        )
    yield f"Beside float32, at {_facts(plain, 'batch')} requests a call: {'; '.join(parts)}."


def kv_cache(result: Result) -> Iterator[str]:
    """Where the cache pays, and where it does harm."""
    ratios = [float(row.facts["ratio"] or 0) for row in result.rows[::2]]
    faster, slower = (sum(map(differs, ratios)) for differs in (is_faster, is_slower))
    yield (
        f"A KV cache is more than {NOISE:.0%} faster than recomputing in {faster} of {len(ratios)} settings and slower "
        f"in {slower}; in {len(ratios) - faster - slower} there is no difference. It is {min(ratios):.2f} to "
        f"{max(ratios):.2f} times as fast."
    )


def serving_load(result: Result) -> Iterator[str]:
    """The bars, and for a missed one on a single request what the hop itself costs."""
    for bar in result.method["bars"]:
        about = f"{bar['bar'].capitalize()} over {bar['num_items']:,} items, {bar['limit']}: "
        if bar["reached_ms"] is None:
            yield f"{about}missed, as lower rates were already."
            continue
        missed = "" if bar["is_met"] else "; missed"
        if missed and bar.get("hop_ms") is not None:
            missed += f", where a call of a model that does nothing takes {significant(float(bar['hop_ms']))} ms"
        yield f"{about}{significant(float(bar['reached_ms']))} ms by {bar['layout']}{missed}."


FINDINGS: Mapping[str, Finding] = {
    "recall_latency": recall_latency,
    "peers": peers,
    "peers_2_threads": peers_2_threads,
    "peers_avx2": peers_avx2,
    "interests_latency": interests_latency,
    "item_search": item_search,
    "catalogue_growth": growth,
    "catalogue_growth_10m": growth,
    "concurrency": concurrency,
    "call_threads": call_threads,
    "precision": precision,
    "kv_cache": kv_cache,
    "serving_load": serving_load,
}
"""By the name of the result; the others' tables are short enough to speak for themselves."""


def _fastest(rows: Iterable[Row]) -> Row:
    return min(rows, key=lambda row: row.latency_ms["p90"])


def _facts(rows: Sequence[Row], fact: str) -> str:
    return listed(row.facts[fact] for row in rows)
