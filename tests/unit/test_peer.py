from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from recgpt.bench.peer import Peer
from recgpt.errors import DependencyError

# A real process that speaks the protocol, and dies of a way it does not know: its input is gone before its output.
SCRIPT = """
import json, os, sys
sizes = json.loads(sys.stdin.readline())
print(json.dumps({"versions": {"peer": str(sizes["num_items"])}}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["way"] != "known":
        os.close(0)
        sys.exit("no such way")
    items = [history[: asked["k"]] for history in asked["histories"]]
    print(json.dumps({"stages_ns": {"encode": 3, "search": 4}, "items": items}), flush=True)
"""

# A peer by the loop that all peers share. Scores are distances from 10 times the newest item, upside down.
LOOPED = """
import torch
from peer_loop import TOP_K, answer

def ways(sizes):
    items = torch.arange(1, sizes["num_items"] + 1)
    return {
        "near": {
            "encode": lambda histories, k: torch.tensor([history[-1] for history in histories]),
            "interests": lambda newest, k: -(items - 10 * newest[:, None]).abs().float(),
            **TOP_K,
        },
        "same": {"encode": lambda histories, k: print("noise") or histories},
    }

answer(ways, packages=("torch",))
"""
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "peer.py"
    path.write_text(SCRIPT)
    return path


def test_a_call_gives_the_times_that_the_script_took_and_its_items(script: Path, tmp_path: Path) -> None:
    with Peer(Path(sys.executable), script, {"num_items": 7}, log=tmp_path / "log") as peer:
        assert peer.versions == {"peer": "7"}
        for _ in range(2):
            sample, items = peer.call("known", [[1, 2, 3], (4, 5, 6)], 2)
            assert (sample.total_ns, dict(sample.stages_ns)) == (7, {"encode": 3, "search": 4})
            assert items == [[1, 2], [4, 5]]
    peer.close()


def test_a_script_that_ends_is_quoted(script: Path, tmp_path: Path) -> None:
    with (
        Peer(Path(sys.executable), script, {"num_items": 7}, log=tmp_path / "log") as peer,
        pytest.raises(DependencyError, match="no such way"),
    ):
        peer.call("unknown", [[1]], 1)
    script.write_text("import library_that_nobody_has")
    with pytest.raises(DependencyError, match="library_that_nobody_has"):
        Peer(Path(sys.executable), script, {}, log=tmp_path / "log")


def test_a_script_that_has_ended_is_quoted_again_and_closed_without_more_ado(script: Path, tmp_path: Path) -> None:
    with Peer(Path(sys.executable), script, {"num_items": 7}, log=tmp_path / "log") as peer:
        for _ in range(2):  # the second question cannot even be written
            with pytest.raises(DependencyError, match="no such way"):
                peer.call("unknown", [[1]], 1)


def test_a_missing_environment_is_named(script: Path, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="nowhere"):
        Peer(tmp_path / "nowhere/bin/python", script, {}, log=tmp_path / "log")


def test_the_loop_that_peers_share_runs_and_times_a_way_step_by_step(tmp_path: Path) -> None:
    shutil.copy(BENCHMARKS / "peer_loop.py", tmp_path)
    script = tmp_path / "near.py"
    script.write_text(LOOPED)
    with Peer(Path(sys.executable), script, {"num_items": 99, "num_threads": 1}, log=tmp_path / "log") as peer:
        assert list(peer.versions) == ["torch"]
        sample, items = peer.call("near", [[7, 3], [5]], 1)
        assert items == [[30], [50]]
        assert list(sample.stages_ns) == ["encode", "interests", "search", "merge"]
        assert min(sample.stages_ns.values()) > 0
        # What a library prints does not end up among the answers.
        assert peer.call("same", [[1, 2]], 1)[1] == [[1, 2]]
