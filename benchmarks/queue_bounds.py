"""How often Triton leaves a request for half a second, by the settings of its queue; writes JSON with every sample."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from recgpt.bench.environment import describe_environment
from recgpt.bench.load import run_load
from recgpt.bench.results import Result, Row
from recgpt.bench.subject import find_subject
from recgpt.bundle import Bundle
from recgpt.cli import run_script
from recgpt.client import RecallClient
from recgpt.serving.repository import CONFIG, write_repository
from recgpt.serving.server import TritonServer
from recgpt.types import RecallRequest

METHOD = """\
One server for each setting of dynamic_batching, on this machine; clients that send their next request when they have
the answer to the last, for the same time each. waiting: requests that took longer than 400 ms; no run of a graph does.
"""
SIZE = "default_queue_policy { max_queue_size: 512 }"
# Setting -> (what stands in dynamic_batching beside the delay, delay in microseconds, instances, option of the server).
SETTINGS: dict[str, tuple[str, int, int, str]] = {
    "no bound": ("", 0, 1, ""),
    "size": (SIZE, 0, 1, ""),
    "time": ("default_queue_policy { default_timeout_microseconds: 1000000 }", 0, 1, ""),
    "size, two instances": (SIZE, 0, 2, ""),
    "size, delay": (SIZE, 50, 1, ""),
    "size, preferred sizes": (f"preferred_batch_size: [1, 256] {SIZE}", 0, 1, ""),
    "size, rate limit": (SIZE, 0, 1, "--rate-limit=execution_count"),
}
QUICK = ("no bound", "size")
NUM_CLIENTS = (1, 3)
WAITING_NS = 400_000_000

app = typer.Typer(add_completion=False)


@app.command()
def main(
    bundle: Annotated[Path | None, typer.Option(help="Export to serve; made if there is none.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each setting and number of clients.")] = 10.0,
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("benchmarks/results/queue_bounds.json"),
    quick: Annotated[bool, typer.Option(help="Two settings, three seconds: less than a minute.")] = False,
) -> None:
    """Counts requests that lie in the queue of a server that has nothing else to do."""
    console, environment = Console(), describe_environment()
    opened = find_subject(bundle, None, say=console.print).bundle
    # Of a single second, two requests that Triton leaves waiting would take all.
    duration_s = 3.0 if quick else seconds
    rows = [row for name in (QUICK if quick else SETTINGS) for row in _measure(name, opened, duration_s)]
    method = {"title": "Bounds of Triton's queue", "text": " ".join(METHOD.split()), "parameters": {"s": duration_s}}
    Result(name="queue_bounds", environment=environment, method=method, rows=tuple(rows)).save(out)
    table = Table("setting", "clients", "requests", "waiting", "p50 ms", "p99 ms", box=None)
    for row in rows:
        numbers = (row.facts["clients"], len(row.samples_ns), row.facts["num_waiting"])
        table.add_row(row.name, *map(str, numbers), *(f"{row.latency_ms[name]:.2f}" for name in ("p50", "p99")))
    console.print(table)
    console.print(f"wrote {out}", markup=False, soft_wrap=True)


def _measure(name: str, bundle: Bundle, duration_s: float) -> list[Row]:
    policy, delay, num_instances, option = SETTINGS[name]
    requests = [RecallRequest(history=example.history) for example in bundle.examples()]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder, "models")
        write_repository(models, bundle.graphs(), bundle.manifest.model_version)
        for config in models.glob(f"*/{CONFIG}"):
            batching = f"dynamic_batching {{ max_queue_delay_microseconds: {delay} {policy} }}"
            text = re.sub(r"^dynamic_batching .*$", batching, config.read_text(), flags=re.MULTILINE)
            config.write_text(text.replace("count: 1", f"count: {num_instances}"))
        options = [option] if option else []
        with (
            TritonServer(models, log=Path(folder, "log"), arguments=options) as server,
            RecallClient(server.url, bundle=bundle.path) as client,
        ):
            client.recall_many(requests)
            for number in NUM_CLIENTS:
                load = run_load(client, requests, num_clients=number, duration_s=duration_s)
                waiting = sum(sample > WAITING_NS for sample in load.samples_ns)
                rows.append(
                    Row(name=name, facts={"clients": number, "num_waiting": waiting}, samples_ns=load.samples_ns)
                )
    return rows


if __name__ == "__main__":
    run_script(app)
