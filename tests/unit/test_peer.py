from __future__ import annotations

import sys
from pathlib import Path

import pytest

from recgpt.bench.peer import Peer
from recgpt.errors import DependencyError

# A real process that speaks the protocol, and dies of a way it does not know.
SCRIPT = """
import json, sys
sizes = json.loads(sys.stdin.readline())
print(json.dumps({"versions": {"peer": str(sizes["num_items"])}}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["way"] != "known":
        sys.exit("no such way")
    items = [history[: asked["k"]] for history in asked["histories"]]
    print(json.dumps({"stages_ns": {"encode": 3, "search": 4}, "items": items}), flush=True)
"""


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


def test_a_missing_environment_is_named(script: Path, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="nowhere"):
        Peer(tmp_path / "nowhere/bin/python", script, {}, log=tmp_path / "log")
