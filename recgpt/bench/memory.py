"""How much memory recall in process takes, stage by stage, measured in a process of its own.

A graph takes little more than its table in 8 bits: the item matrix is shared, and the file that the graph was read from
is let go of.

Run as ``python -m recgpt.bench.memory BUNDLE``, prints the resident bytes after each stage as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from recgpt.backends.onnxruntime import CPU, OnnxRuntimeBackend
from recgpt.bench.generated import export_decoder
from recgpt.bundle import Bundle
from recgpt.errors import DependencyError
from recgpt.extras import require
from recgpt.recall.recaller import Recaller
from recgpt.types import RecallRequest

SHARED, OWN = "one item matrix", "an item matrix a graph"
STAGES = ("start", "libraries", "index", "graphs", "recall")
_NUM_RECALLS = 20
_KIB = 1024


def measure_memory(bundle: Path, *, shares: bool) -> dict[str, int]:
    """Starts a process that recalls from a bundle.

    Args:
        bundle: its folder.
        shares: as the engine, with one item matrix for index and graphs; else a copy in each.

    Returns:
        Resident bytes after each of ``STAGES``, and ``peak``, the most there ever were.

    Raises:
        DependencyError: the process failed; with what it said.
    """
    command = [sys.executable, "-m", "recgpt.bench.memory", str(bundle), SHARED if shares else OWN]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise DependencyError(f"{' '.join(command)} failed: {finished.stderr.strip()}")
    found: dict[str, int] = json.loads(finished.stdout)
    return found


def random_bundle(folder: Path, *, num_items: int) -> Bundle:
    """A bundle of the paper's shape with random weights over a catalogue of any size; memory does not depend on them.

    Args:
        folder: of the bundle; its parent is there.
        num_items: V.
    """
    import torch

    from recgpt.config import PAPER_SHAPE
    from recgpt.model.decoder import Decoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = Decoder(PAPER_SHAPE, num_items=num_items, num_users=1).eval()
    return export_decoder(decoder, folder, num_interests=(2,))


def _recall_in_stages(bundle: Bundle, *, shares: bool) -> dict[str, int]:
    found = {"start": _resident_bytes()}
    require("onnxruntime")
    require("faiss")
    found["libraries"] = _resident_bytes()
    index, catalogue = bundle.index(num_threads=1), bundle.catalogue()
    found["index"] = _resident_bytes()
    matrix = bundle.graph_matrix(index) if shares else None
    backend = OnnxRuntimeBackend(
        bundle.graphs(), bundle.manifest.model, num_threads=1, providers=[CPU], item_matrix=matrix
    )
    found["graphs"] = _resident_bytes()
    quotas = (9, 1) if 2 in backend.fused else (10,)
    with Recaller(backend, index, catalogue, prompt_tuned=True) as recaller:
        for example in (bundle.examples() * _NUM_RECALLS)[:_NUM_RECALLS]:
            recaller.recall_many([RecallRequest(history=example.history, k=10, quotas=quotas)])
        found["recall"] = _resident_bytes()
    return found | {"peak": _peak_bytes()}


def _peak_bytes() -> int:
    # getrusage would tell the peak of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) * _KIB


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: list[Any]) -> None:
    """Of the process that ``measure_memory`` starts."""
    bundle, kind = arguments
    print(json.dumps(_recall_in_stages(Bundle.open(bundle), shares=kind == SHARED)))


if __name__ == "__main__":
    main(sys.argv[1:])
