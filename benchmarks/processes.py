"""Memory and processor time of other processes, as the kernel tells them. To see those of other users takes root."""

import os
from collections.abc import Collection, Iterable
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Of /proc/<pid>/stat, counted from the state.
_PARENT, _USER_TICKS, _SYSTEM_TICKS = 1, 11, 12


def pss_bytes(pids: Iterable[int]) -> int:
    """Proportional set size: memory that n processes share counts an n-th in each. Gone processes count nothing."""
    return sum(_pss_kb(pid) for pid in pids) * 1024


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds of processor time that they took so far."""
    return sum(int(field) for pid in pids for field in _stat(pid)[_USER_TICKS : _SYSTEM_TICKS + 1]) / _TICKS_PER_S


def parent(pid: int) -> int:
    return int(_stat(pid)[_PARENT])


def tree(root: int) -> set[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for pid in _all():
        if stat := _stat(pid):
            children.setdefault(int(stat[_PARENT]), []).append(pid)
    found, waiting = set(), [root]
    while waiting:
        pid = waiting.pop()
        found.add(pid)
        waiting.extend(children.get(pid, ()))
    return found


def of_users(first: int, count: int) -> dict[int, set[int]]:
    """Processes by their user id, of those ids from `first` on."""
    found: dict[int, set[int]] = {}
    for pid in _all():
        try:
            uid = Path(f"/proc/{pid}").stat().st_uid
            # A process that may not be looked into belongs to root there.
            if uid == 0:
                uid = int(
                    next(li for li in Path(f"/proc/{pid}/status").read_text().splitlines() if "Uid:" in li).split()[1]
                )
        except (OSError, StopIteration):
            continue
        if first <= uid < first + count:
            found.setdefault(uid, set()).add(pid)
    return found


def outermost(pids: Collection[int]) -> set[int]:
    """Those whose parents are none of them."""
    return {pid for pid in pids if _stat(pid) and parent(pid) not in pids}


def _all() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def _pss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
