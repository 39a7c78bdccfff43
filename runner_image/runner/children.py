"""Every process that a call started, and its end.

As process 1 of a PID namespace the supervisor kills with one system call all there is; so does one that has a user id of
its own (`host.py`), as it may signal nothing else. As a plain process (the `process` backend) it finds its descendants
through /proc, and is their reaper, so that none gets out of its tree.
"""

from __future__ import annotations

import os
import time
from signal import SIGKILL

# linux/prctl.h
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36

# How long the killed may take to be collected, and rivals that go on forking to be killed.
_COLLECT_S = 0.05
_RIVAL_S = 5.0
_PAUSE_S = 0.0005

_own_user = False  # all that this process may signal is its own


def _prctl(option: int, value: int) -> None:
    """prctl(2), as far as this interpreter can. `ctypes` would cost the start 5 ms; its core costs 1."""
    try:
        import _ctypes

        function = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
        _ctypes.call_function(function, (option, value, 0, 0, 0))
    except (ImportError, AttributeError, OSError):
        return


def have_own_user() -> None:
    """From here on this process is the supervisor of all that runs under its user id, and has no rights beyond that."""
    global _own_user
    _own_user = True


def guard_supervisor() -> None:
    """Other processes of the same user may not look into or trace the supervisor of a sandbox. Not process 1: be a reaper."""
    if os.getpid() == 1 or _own_user:
        _prctl(_PR_SET_DUMPABLE, 0)
    if os.getpid() != 1:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def release_worker(supervisor: int) -> None:
    """In a fresh fork: undo what only the supervisor needs, and do not outlive it."""
    _prctl(_PR_SET_DUMPABLE, 1)  # its own /proc/self is to be readable for user code
    if supervisor == 1:
        return
    _prctl(_PR_SET_PDEATHSIG, SIGKILL)
    if os.getppid() != supervisor:  # it ended before the line above
        os._exit(0)


def reap(ended: dict[int, int] | None = None) -> bool:
    """Collect who has ended into `ended` (process id -> wait status). Whether there are children left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if not pid:
            return True
        if ended is not None:
            ended[pid] = status


def kill_all() -> None:
    """Kill every other process in reach; none of them runs user code again. Most have been collected then."""
    if os.getpid() == 1 or _own_user:
        _kill_reachable()
    else:
        _kill_descendants()


def _kill_reachable() -> None:
    # One signal reaches all at once, and none forks with it pending: what is not collected in time is dying. To wait for
    # the last of hundreds would only keep the fresh worker from its greeting.
    try:
        os.kill(-1, SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + _COLLECT_S
    while reap() and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)


def _kill_descendants() -> None:
    # One by one, so that a rival may fork meanwhile: again until nobody is left.
    deadline = time.monotonic() + _RIVAL_S
    while True:
        found = descendants(os.getpid())
        if not found or time.monotonic() > deadline:
            return
        for pid in found:
            try:
                os.kill(pid, SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(_PAUSE_S)
        reap()


def descendants(ancestor: int) -> list[int]:
    """All processes below that one, those that ended and wait to be collected included."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib is large
        if name.isdecimal():
            parent = _parent(name)
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    level = children.get(ancestor, [])
    while level:
        found += level
        level = [child for pid in level for child in children.get(pid, ())]
    return found


def _parent(pid: str) -> int:
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        # "pid (any name) state parent …"
        return int(os.read(descriptor, 4096).rpartition(b")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        os.close(descriptor)
