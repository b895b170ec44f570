"""Another library in a process and an environment of its own, asked for one timed call at a time over pipes."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recgpt.bench.timing import Sample
from recgpt.errors import DependencyError

_LAST_WORDS = 400


class Peer:
    """Starts a script that reads and writes one JSON a line, and speaks to it. Use as a context manager.

    Args:
        python: interpreter of the environment that has the library.
        script: answers the first line with ``{"versions": ..}``, later ones with ``{"stages_ns": .., "items": ..}``.
        sizes: the first line.
        log: file for what the script says beside its answers.

    Raises:
        DependencyError: the interpreter is missing, or the script ends before its first answer; says its last words.
    """

    def __init__(self, python: Path, script: Path, sizes: Mapping[str, Any], *, log: Path) -> None:
        if not python.is_file():
            raise DependencyError(f"{python} is missing; make an environment with the library, and name its python")
        self._script, self._log = script, log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [str(python), str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )
        try:
            self.versions: Mapping[str, str] = self._ask(sizes)["versions"]
        except DependencyError:
            self.close()
            raise

    def call(self, way: str, histories: Sequence[Sequence[int]], k: int) -> tuple[Sample, list[list[int]]]:
        """One call by one of the script's ways: its time as the script took it, and the items of each list."""
        answer = self._ask({"way": way, "histories": [list(history) for history in histories], "k": k})
        stages: dict[str, int] = answer["stages_ns"]
        return Sample(total_ns=sum(stages.values()), stages_ns=stages), answer["items"]

    def close(self) -> None:
        """Lets the script end; calling it twice is harmless."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            # Closing writes what a script that has already ended did not read.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        if pipe_in is None or pipe_out is None:
            raise DependencyError(f"{self._script} was started without pipes")
        try:
            pipe_in.write(json.dumps(question) + "\n")
            pipe_in.flush()
            line = pipe_out.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise DependencyError(f"{self._script} ended: {self._log.read_text()[-_LAST_WORDS:].strip()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
