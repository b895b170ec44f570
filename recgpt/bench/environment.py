"""The machine and the software that numbers belong to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "recgpt", "numpy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "faiss-cpu", "faiss-gpu", "tritonclient",
    "nvidia-pytriton", "mlcommons-loadgen",
)  # fmt: skip

INSTRUCTION_SETS = frozenset({"avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"})
"""That products of matrices are several times as fast with, as Linux spells them."""


def describe_environment() -> dict[str, Any]:
    """Processor, memory, GPUs, operating system, versions and commit.

    Returns:
        ``cpu``, ``instruction_sets`` (those of ``INSTRUCTION_SETS`` that it has), ``num_cores``, ``memory_bytes``,
        ``load_average`` (of the last minute: what else kept the machine busy, if called before measuring), ``gpus``
        (names), ``os``, ``python``, ``packages`` (of those installed), ``commit`` (None outside a checkout; ``-dirty``
        if files were changed).
    """
    return {
        "cpu": (_cpu_info("model name") or [platform.processor() or platform.machine()])[0],
        "instruction_sets": sorted(INSTRUCTION_SETS & {name for line in _cpu_info("flags") for name in line.split()}),
        "num_cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": round(os.getloadavg()[0], 2),
        "gpus": _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": _versions(),
        "commit": _commit(),
    }


def _cpu_info(field: str) -> list[str]:
    """What Linux tells of each core; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(field)]


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    # Installed elsewhere, the package may lie inside some other project's checkout.
    if not (CHECKOUT / ".git").exists():
        return None
    return _output("git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None


def _output(program: str, *arguments: str) -> str:
    """What a program prints; empty if it is not there or fails."""
    if shutil.which(program) is None:
        return ""
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False).stdout.strip()
