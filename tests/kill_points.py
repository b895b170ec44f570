"""Kills a process with SIGKILL before each change that it makes to files, one after the other.

The process is not changed for it: Python's own audit events say when a file is about to be made, moved or removed.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

# "ctypes.dlsym" comes before the exchange of two folders, which Python has no function for.
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "ctypes.dlsym", "shutil.copyfile"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def each_kill_point(action: Callable[[], object]) -> Iterator[int]:
    """Forks, runs the action in the child and kills it before its first, second, ... change; gives control after each.

    Ends when the action came to its end undisturbed. Call it where no other thread runs.
    """
    number = 0
    while True:
        number += 1
        child = os.fork()
        if child == 0:
            _run(action, number)
        _, status = os.waitpid(child, 0)
        yield number
        if not os.WIFSIGNALED(status):
            if os.waitstatus_to_exitcode(status) != 0:
                raise RuntimeError(f"the action failed undisturbed: status {status}")
            return


def in_a_child(action: Callable[[], object]) -> None:
    """Runs the action in a child to its end, since threads that it starts would be lost in later forks of this process.

    RuntimeError if it fails; the child has then written why to standard error.
    """
    child = os.fork()
    if child == 0:
        _end_with(action)
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError("what was run in a child failed")


def _run(action: Callable[[], object], last: int) -> None:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    _end_with(action)


def _end_with(action: Callable[[], object]) -> None:
    code = 1
    try:
        action()
        code = 0
    finally:  # the child never returns into the parent's loop
        if code:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
