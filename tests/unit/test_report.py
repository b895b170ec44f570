from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recgpt.bench.precision_report import QUALITY, precision
from recgpt.bench.quality_report import read_ensembles, read_reports
from recgpt.bench.quality_tables import own_reports, summary_table
from recgpt.bench.readme_speed import peers_table, served_rates, shared_calls, speed_table, speedup
from recgpt.bench.report import SECTIONS, write_report
from recgpt.bench.results import Result, Row
from recgpt.errors import DataError

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "benchmarks" / "results"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def growth_result() -> Result:
    """As a benchmark that the report knows nothing of but its name might write it."""
    rows = [
        Row(
            name=name,
            facts={"num_items": size, "batch": 1, "ann_recall": recall},
            samples_ns=(size * scale, size * scale + 20),
        )
        for size in (10_000, 1_000_000)
        for name, scale, recall in (("exact", 10, 1.0), ("HNSW", 1, 0.9512345))
    ]
    return Result(
        name="queue_bounds",
        environment={"cpu": "a processor", "num_cores": 2, "commit": "0123456789abcdef-dirty"},
        method={
            "title": "Growth of the catalogue",
            "text": "as it was done",
            "parameters": {"num_threads": 3},
        },
        rows=tuple(rows),
        created="2026-01-02T03:04:05+00:00",
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "results").mkdir()
    growth_result().save(tmp_path / "results" / "queue_bounds.json")
    return tmp_path / "results"


def test_a_result_nobody_foresaw_becomes_a_table_and_a_plot_over_the_catalogue(results, tmp_path):
    written = write_report(results, tmp_path / "performance.md")
    text = (tmp_path / "performance.md").read_text()
    assert written.found == ("queue_bounds",)
    assert "## Growth of the catalogue" in text
    assert "a processor, 2 cores; 3 thread(s); 2026-01-02; commit 0123456789ab-dirty." in text
    # Medians: 1,000,000 x 10 ns and 20 ns more is 10.0 ms.
    assert "| exact | 1,000,000 | 1 | 1.00 | 10.0 |" in text
    assert "| HNSW | 10,000 | 1 | 0.95 |" in text
    assert "![queue_bounds](results/queue_bounds.png)" in text
    assert (results / "queue_bounds.png").read_bytes().startswith(PNG_SIGNATURE)


def test_what_did_not_help_is_listed_with_its_number(results, tmp_path):
    rows = [
        Row(
            name=name,
            facts={"num_items": 900, "num_queries": queries, "k": 10, "ratio_to_faiss": ratio},
            samples_ns=(int(100 / ratio),),
        )
        for queries, slow in ((1, 0.8), (4, 2.0))
        for name, ratio in (("Faiss flat", 1.0), ("ItemIndex", slow))
    ]
    replace(growth_result(), name="item_search", rows=tuple(rows)).save(results / "item_search.json")
    write_report(results, tmp_path / "performance.md")
    text, _, listed = (tmp_path / "performance.md").read_text().partition("## What was tried and did not help")
    assert "| ItemIndex | 900 | 4 | 10 | 2.00 |" in text
    assert "- Exact search by ItemIndex is 0.80 to 2.00 times as fast as Faiss flat, and the fastest" in text
    assert "- Exact search by ItemIndex: 0.80 times as fast as Faiss flat in 1 of 2 settings, of at most " in listed
    assert "so many queries: 1 in 900 items." in listed
    assert (results / "item_search.png").read_bytes().startswith(PNG_SIGNATURE)


def test_precisions_have_the_quality_of_their_export_where_that_was_measured(tmp_path):
    rows = [Row(name=name, facts={"batch": 1}, samples_ns=(1,)) for name in ("eager, recompute", "float16")]
    result = replace(growth_result(), rows=tuple(rows))
    assert "HR@10" not in precision(result, tmp_path).tables[0]
    exported = {"float16": {"graph_bytes": 1, "9,1": {"hr@10": 0.1031, "ndcg@10": 0.0618}}}
    report = {"dataset": "beauty", "config": {"model": {"hidden_size": 128}}, "exported": exported}
    (tmp_path / QUALITY).write_text(json.dumps(report))
    section = precision(result, tmp_path)
    assert "| float16 | 1 | .1031 / .0618 |" in section.tables[0]
    assert "| eager, recompute | 1 | - |" in section.tables[0]
    assert "test users of Beauty; of the model of the quality report, of width 128" in section.notes[0]


def test_what_is_missing_names_the_script_that_makes_it(results, tmp_path):
    written = write_report(results, tmp_path / "performance.md")
    text = (tmp_path / "performance.md").read_text()
    assert set(written.missing) == set(SECTIONS) - {"queue_bounds"}
    for name, script in written.missing.items():
        assert f"- `{name}`: run `python {script}`" in text


def test_without_a_gpu_it_says_not_measured_and_with_one_it_shows_that(results, tmp_path):
    write_report(results, tmp_path / "performance.md")
    assert "# On a GPU\n\nnot measured\n" in (tmp_path / "performance.md").read_text()
    (results / "gpu").mkdir()
    environment = {**growth_result().environment, "cpu": "host of a GPU"}
    replace(growth_result(), environment=environment).save(results / "gpu" / "queue_bounds.json")
    write_report(results, tmp_path / "performance.md")
    text = (tmp_path / "performance.md").read_text()
    assert "not measured\n" not in text
    assert text.index("# On a GPU") < text.index("host of a GPU")


def test_the_committed_results_make_every_section_that_they_should(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    names = [name for name in SECTIONS if (COMMITTED / f"{name}.json").is_file()]
    assert {"recall_latency", "interests_latency", "kv_cache"} <= set(names)
    for name in names:
        shutil.copy(COMMITTED / f"{name}.json", results)
    write_report(results, tmp_path / "performance.md")
    text = (tmp_path / "performance.md").read_text()
    for name in names:
        assert f"results/{name}.json" in text
    head, _, rest = text.partition("## Two-step recall of 10 items")
    assert "## In short" in head
    assert "times as fast as PyTorch that recomputes, at 1 / 8 / 32 / 256 requests a call" in head
    assert "1,000 requests/s over 10,000 items, p99 <= 50 ms: " in head
    # The longest table, of all cells of interests, is folded; a short one is not.
    assert "<details><summary>All 108 rows</summary>\n\n|  | batch | history |" in rest
    assert rest.count("<details>") == rest.count("</details>") < rest.count("How: ")
    for plot in (
        "interests_by_history",
        "interests_by_number",
        "interests_ratio_to_floor",
        "recall_throughput",
        "peers_ratios",
    ):
        assert f"({Path('results') / plot}.png)" in text
        assert (results / f"{plot}.png").stat().st_size > 10_000


def test_nothing_to_report_and_a_damaged_result_are_refused(results, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"benchmarks/interests_latency\.py"):
        write_report(tmp_path / "empty", tmp_path / "performance.md")
    replace(growth_result(), name="kv_cache").save(results / "kv_cache.json")
    with pytest.raises(DataError, match=r"kv_cache\.json.*run the benchmark again"):
        write_report(results, tmp_path / "performance.md")
    assert not (tmp_path / "performance.md").exists()


def test_readme_has_the_quality_that_was_measured():
    reports = own_reports(read_reports(COMMITTED))
    assert len(reports) == 4
    assert summary_table(reports, read_ensembles(COMMITTED)) in (ROOT / "README.md").read_text()


def test_readme_has_the_speed_that_was_measured():
    readme = (ROOT / "README.md").read_text()
    names = (
        "recall_latency",
        "concurrency",
        "peers",
        "peers_2_threads",
        "peers_avx2",
        "call_threads",
        "serving_load",
    )
    latency, concurrency, peers, two_threads, avx2, threads, load = (
        Result.load(COMMITTED / f"{name}.json") for name in names
    )
    assert speed_table(latency, concurrency) in readme
    assert peers_table(peers, two_threads, avx2) in readme
    sentences = " ".join(readme.split())
    assert speedup(latency) in sentences
    assert shared_calls(threads) in sentences
    assert served_rates(load) in sentences
