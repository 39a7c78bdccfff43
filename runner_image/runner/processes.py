"""What a composition started that failed: every process of the sandbox that was not there before it."""

from __future__ import annotations

import os
import time
from signal import SIGKILL

from .children import descendants

# How long rivals that go on forking are killed, and the killed waited for.
_RIVAL_S = 1.0
_PAUSE_S = 0.0005


def running() -> frozenset[int] | None:
    """The processes of this sandbox; None where they cannot be told, user code having opened all files it may."""
    supervisor = os.getppid()
    try:
        if supervisor == 1:
            return frozenset(int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208
        return frozenset(descendants(supervisor))
    except OSError:
        return None


def end_all_but(before: frozenset[int] | None) -> None:
    """Kill whatever runs now and is not among those: again until there is nothing, since one may fork meanwhile."""
    deadline = time.monotonic() + _RIVAL_S
    while before is not None and time.monotonic() < deadline:
        left = (running() or before) - before - {os.getpid()}
        if not left:
            return
        for pid in left:
            _end(pid)
        time.sleep(_PAUSE_S)


def _end(pid: int) -> None:
    try:
        os.kill(pid, SIGKILL)
        os.waitpid(pid, os.WNOHANG)  # one of ours is collected; the supervisor sees to others
    except OSError:
        return
