"""What was tried and did not help, by benchmark: a line a thing, with its numbers. Knows rows, no Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from recgpt.bench.call_threads import INSIDE, SHARED
from recgpt.bench.contenders import ENGINE, IN_GRAPH, STEPWISE
from recgpt.bench.growth import REFERENCE
from recgpt.bench.growth_report import on_fewest_threads
from recgpt.bench.interest_contenders import FUSED
from recgpt.bench.interest_contenders import STEPWISE as INTERESTS_STEPWISE
from recgpt.bench.interest_rows import cell_of
from recgpt.bench.load_rows import LIMIT_MS
from recgpt.bench.mixed_lengths import PARTS
from recgpt.bench.report_findings import Finding
from recgpt.bench.report_sections import grouped
from recgpt.bench.report_words import is_faster, is_slower, listed, spread
from recgpt.bench.results import Fact, Result
from recgpt.bench.searchers import FAISS
from recgpt.recall.layout import Layout


def recall_latency(result: Result) -> Iterator[str]:
    """One way for every batch, against the engine, which chooses by batch."""
    calls = {(row.name, row.facts["batch"]): row.latency_ms["p50"] for row in result.rows if row.stages_ns}
    for name in (STEPWISE, IN_GRAPH):
        ratios = {batch: calls[ENGINE, batch] / took for (row, batch), took in calls.items() if row == name}
        slower = {batch: ratio for batch, ratio in ratios.items() if is_slower(ratio)}
        if slower:
            yield (
                f"{name}, for every batch: {listed(slower.values())} times as fast as the engine by default, at "
                f"{listed(slower)} requests a call."
            )


def interests_latency(result: Result) -> Iterator[str]:
    """Step by step on a KV cache, against one graph for all steps."""
    took = {(row.name, cell_of(row)): row.latency_ms["p50"] for row in result.rows}
    ratios = [took[FUSED, cell] / p50 for (name, cell), p50 in took.items() if name == INTERESTS_STEPWISE]
    if any(map(is_slower, ratios)):
        yield f"{INTERESTS_STEPWISE}, on a KV cache: {spread(ratios)} times as fast as the fused graph."
    yield from not_measured(result)


def call_threads(result: Result) -> Iterator[str]:
    """The way of several threads that the engine does not take."""
    for name in (INSIDE, SHARED):
        for num_items, rows in grouped((row for row in result.rows if row.name == name), "num_items").items():
            ratios = {row.facts["batch"]: float(row.facts["ratio_to_one"] or 0) for row in rows}
            slower = {batch: ratio for batch, ratio in ratios.items() if is_slower(ratio)}
            if slower:
                yield (
                    f"{name}, over {num_items:,} items: {listed(slower.values())} times as fast as one thread, at "
                    f"{listed(slower)} requests a call."
                )


def growth(result: Result) -> Iterator[str]:
    """Approximate indexes where an exact search is as fast, and one graph for search and merge."""
    for num_items, rows in grouped(on_fewest_threads(result), "num_items").items():
        exact: dict[Fact, float] = {}
        for row in rows:
            if row.facts["index"] == REFERENCE.kind:
                batch, p50 = row.facts["batch"], row.latency_ms["p50"]
                exact[batch] = min(p50, exact.get(batch, p50))
        ratios = {
            kind: [exact[row.facts["batch"]] / row.latency_ms["p50"] for row in of_kind]
            for kind, of_kind in grouped(rows, "index").items()
            if kind != REFERENCE.kind
        }
        slower = {kind: found for kind, found in ratios.items() if any(map(is_slower, found))}
        if slower:
            all_of_them = [ratio for found in slower.values() for ratio in found]
            parts = ", ".join(f"{kind} {spread(found)}" for kind, found in slower.items())
            yield (
                f"Approximate search in {num_items:,} items, times as fast as the fastest exact way: {parts}; slower "
                f"in {sum(map(is_slower, all_of_them))} of {len(all_of_them)} settings."
            )
        in_graph = [float(row.facts["ratio_to_reference"] or 0) for row in rows if row.facts["layout"] == Layout.GRAPH]
        if any(map(is_slower, in_graph)):
            yield (
                f"One graph for search and merge over {num_items:,} items: {spread(in_graph)} times as fast as "
                "the fused graph."
            )


def item_search(result: Result) -> Iterator[str]:
    """Each way where it is slower than Faiss, the one that is used among them."""
    for name, rows in grouped(result.rows, None).items():
        slower = [row for row in rows if is_slower(float(row.facts["ratio_to_faiss"] or 0))]
        if slower:
            queries = ", ".join(
                f"{max(int(row.facts['num_queries'] or 0) for row in group)} in {num_items:,} items"
                for num_items, group in grouped(slower, "num_items").items()
            )
            where = "" if len(slower) == len(rows) else f", of at most so many queries: {queries}"
            yield (
                f"Exact search by {name}: {spread(float(row.facts['ratio_to_faiss'] or 0) for row in slower)} times as "
                f"fast as {FAISS} in {len(slower)} of {len(rows)} settings{where}."
            )


def kv_cache(result: Result) -> Iterator[str]:
    """Where it is no faster than recomputing."""
    base = result.method["parameters"]["base"]
    sizes = ("max_length", "hidden_size", "num_blocks", "num_items")
    plain = [row for row in result.rows[::2] if all(row.facts[name] == base[name] for name in sizes)]
    for task, of_task in grouped(plain, "task").items():
        for batch, rows in grouped(of_task, "batch").items():
            ratios = {row.facts["number"]: float(row.facts["ratio"] or 0) for row in rows}
            useless = {number: ratio for number, ratio in ratios.items() if not is_faster(ratio)}
            if useless:
                yield (
                    f"A KV cache for {task} in batches of {batch}, at {listed(useless)} of them: "
                    f"{spread(useless.values())} times as fast as recomputing."
                )


def mixed_lengths(result: Result) -> Iterator[str]:
    """Cutting a batch by length where padding it is faster."""
    ratios = [float(row.facts["ratio_to_padded"] or 0) for row in result.rows if row.name == PARTS]
    slower = [ratio for ratio in ratios if is_slower(ratio)]
    if slower:
        yield f"Cutting by length: {spread(slower)} times as fast in {len(slower)} of {len(ratios)} settings."


def serving_load(result: Result) -> Iterator[str]:
    """Layouts that met no rate."""
    for found in result.method["highest"]:
        if found["met"] is None:
            yield (
                f"{found['layout']} with {found['num_items']:,} items: no rate of at least "
                f"{result.method['parameters']['effort']['lowest']:g} requests/s kept p99 within {LIMIT_MS:g} ms."
            )


def not_measured(result: Result) -> Iterator[str]:
    """A sentence for each contender that was missing."""
    for name, reason in result.method.get("missing", {}).items():
        yield f"{name} was not measured: {reason}."


LOSSES: Mapping[str, Finding] = {
    "recall_latency": recall_latency,
    "peers": not_measured,
    "interests_latency": interests_latency,
    "item_search": item_search,
    "catalogue_growth": growth,
    "catalogue_growth_10m": growth,
    "mixed_lengths": mixed_lengths,
    "call_threads": call_threads,
    "kv_cache": kv_cache,
    "serving_load": serving_load,
}
"""By the name of the result."""
