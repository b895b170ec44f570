"""The report: every result that is there as a section, made from the JSON files alone.

A benchmark joins by an entry in ``SECTIONS``: the name of its result, the script that makes it, and a function that
draws and writes its section; by one in ``FINDINGS`` and ``LOSSES`` where there is a short answer, or what did not help.
Results of a GPU lie in ``gpu/`` beside the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recgpt.bench.growth_report import growth
from recgpt.bench.load_report import serving_load
from recgpt.bench.peers_report import peers
from recgpt.bench.precision_report import precision
from recgpt.bench.report_findings import FINDINGS, Finding
from recgpt.bench.report_losses import LOSSES
from recgpt.bench.report_sections import (
    Render,
    Section,
    any_result,
    call_threads,
    concurrency,
    interests_latency,
    item_search,
    kv_cache,
    mixed_lengths,
    recall_latency,
)
from recgpt.bench.results import Result
from recgpt.errors import DataError
from recgpt.files import atomic_path

GPU = "gpu"

SECTIONS: Mapping[str, tuple[str, Render]] = {
    "recall_latency": ("benchmarks/recall_latency.py", recall_latency),
    "peers": ("benchmarks/peers.py", peers),
    "peers_2_threads": ("benchmarks/peers.py --threads 2 --out benchmarks/results/peers_2_threads.json", peers),
    "peers_avx2": (
        "benchmarks/peers.py --out benchmarks/results/peers_avx2.json, on a processor without AVX-512 and bfloat16",
        peers,
    ),
    "interests_latency": ("benchmarks/interests_latency.py", interests_latency),
    "item_search": ("benchmarks/item_search.py", item_search),
    "catalogue_growth": ("benchmarks/catalogue_growth.py", growth),
    "catalogue_growth_10m": (
        "benchmarks/catalogue_growth.py --items 10000000 --out benchmarks/results/catalogue_growth_10m.json",
        growth,
    ),
    "mixed_lengths": ("benchmarks/mixed_lengths.py", mixed_lengths),
    "concurrency": ("benchmarks/concurrency.py", concurrency),
    "call_threads": ("benchmarks/call_threads.py", call_threads),
    "precision": ("benchmarks/precision.py", precision),
    "kv_cache": ("benchmarks/kv_cache.py", kv_cache),
    "serving_layouts": ("benchmarks/serving_layouts.py", any_result),
    "queue_bounds": ("benchmarks/queue_bounds.py", any_result),
    "serving_load": ("benchmarks/serving_load.py", serving_load),
}
"""By the name of the result, in the order of the report."""

_HEAD = """\
# Performance

<!-- All of this file is written by `python benchmarks/report.py` from benchmarks/results/*.json; do not edit it. -->

Every number below is read from the JSON that is named with it, which holds every sample, the machine, the versions and
the method. Ratios are between contenders that were timed in the same rounds of one run.
"""

# Longer tables are folded: who reads the report wants the answer first, and the plots.
_MAX_OPEN_LINES = 20


@dataclass(frozen=True, kw_only=True)
class Written:
    """What came of a report: names of results that are in it, and what makes those that are not there."""

    found: tuple[str, ...]
    missing: Mapping[str, str]


def has_results(results: Path) -> bool:
    """Whether a folder holds a result that the report has a section for."""
    return any((results / f"{name}.json").is_file() for name in SECTIONS)


def write_report(results: Path, out: Path) -> Written:
    """Writes the report and its plots.

    Args:
        results: folder of the JSON files; plots go there.
        out: the Markdown file.

    Raises:
        DataError: a result cannot be read, or there is none.
        OutputError: a file cannot be written.
    """
    found, missing, in_short, parts, not_helped = [], {}, [], [], []
    for name, (script, render) in SECTIONS.items():
        path = results / f"{name}.json"
        if not path.is_file():
            missing[name] = script
            continue
        section = _section(path, render)
        found.append(name)
        in_short += _lines(FINDINGS, section.result)
        parts.append(_markdown(section, path, out))
        not_helped += _lines(LOSSES, section.result)
    if not found:
        raise DataError(f"{results} has no result of a benchmark; run one of: {', '.join(missing.values())}")
    parts = [_HEAD, *(["## In short\n\n" + "\n".join(in_short)] if in_short else []), *parts]
    parts.append(_gpu(results / GPU, out))
    if not_helped:
        parts.append("## What was tried and did not help\n\n" + "\n".join(not_helped))
    if missing:
        lines = (f"- `{name}`: run `python {script}`" for name, script in missing.items())
        parts.append("## Not measured yet\n\n" + "\n".join(lines))
    with atomic_path(out) as temporary:
        temporary.write_text("\n\n".join(part.rstrip() for part in parts) + "\n")
    return Written(found=tuple(found), missing=missing)


def _lines(by_name: Mapping[str, Finding], result: Result) -> list[str]:
    return [f"- {line}" for line in by_name[result.name](result)] if result.name in by_name else []


def _gpu(folder: Path, out: Path) -> str:
    sections = {GPU: any_result, **{name: render for name, (_, render) in SECTIONS.items()}}
    parts = [
        _markdown(_section(folder / f"{name}.json", render), folder / f"{name}.json", out)
        for name, render in sections.items()
        if (folder / f"{name}.json").is_file()
    ]
    return "\n\n".join(["# On a GPU", *(parts or ["not measured"])])


def _section(path: Path, render: Render) -> Section:
    result = Result.load(path)
    try:
        return render(result, path.parent)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: expected what its benchmark writes: {error!r}; run the benchmark again") from error


def _markdown(section: Section, path: Path, out: Path) -> str:
    machine = section.result.environment
    threads = section.result.method["parameters"].get("num_threads")
    where = [
        f"`{os.path.relpath(path, out.parent)}`",
        ", ".join([machine["cpu"], *machine.get("instruction_sets", []), f"{machine['num_cores']} cores"]),
        *([f"{threads} thread(s)"] if threads is not None else []),
        section.result.created[:10],
        f"commit {_short(str(machine['commit']))}",
    ]
    images = [f"![{plot.stem}]({os.path.relpath(plot, out.parent)})" for plot in section.plots]
    method = f"How: {section.result.method['text']}"
    tables = map(_folded, section.tables)
    return "\n\n".join([f"## {section.title}", "; ".join(where) + ".", *images, *tables, *section.notes, method])


def _short(commit: str) -> str:
    """Twelve digits, and whether files were changed."""
    digits, dash, changed = commit.partition("-")
    return digits[:12] + dash + changed


def _folded(table: str) -> str:
    """The table, to be opened by a click where it is long."""
    num_rows = table.count("\n") - 1
    if num_rows <= _MAX_OPEN_LINES:
        return table
    return f"<details><summary>All {num_rows} rows</summary>\n\n{table}\n\n</details>"
