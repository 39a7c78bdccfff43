"""Limits that the kernel keeps for a whole sandbox: memory, processes, processor time; and its freezer. Both versions of
cgroups.

What can be had depends on the machine: root makes groups as it likes; another user only where it was given a part of
the hierarchy (a systemd unit with `Delegate=yes`). Nothing here fails a start: what is not held is reported instead.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.telemetry import log

ROOT = Path("/sys/fs/cgroup")
GROUP = "kodou"
SERVER_GROUP = "kodou-server"  # what the server moves into, where its own group is to be a parent
CONTROLLERS = ("memory", "pids", "cpu")
FREEZER = "freezer"  # version 1; with version 2 every group can be frozen
# Version, file -> what is written to freeze, what to thaw.
_SWITCHES = {"cgroup.freeze": ("1", "0"), "freezer.state": ("FROZEN", "THAWED")}
# The file, and a line of it once all processes stand still.
_FROZEN = (("cgroup.events", "frozen 1"), ("freezer.state", "FROZEN"))
MB = 1024 * 1024
CPU_PERIOD_US = 100_000
MIN_CPU_QUOTA_US = 1_000  # the kernel takes no less
_LEFT_BEHIND_S = 300.0  # longer than any is made before somebody is put in (`launch.START_TIMEOUT_S`)
_REMOVE_TRIES = 50
_REMOVE_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True)
class GroupLimits:
    memory_mb: int  # swap included, where the kernel counts it
    pids: int
    cpus: float


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One sandbox's groups: one directory (version 2), or one for each controller (version 1). Blocking."""

    directories: tuple[Path, ...]

    def add(self, pid: int) -> None:
        """Move a process in; what it starts from then on is in, too. Raises `OSError`."""
        for directory in self.directories:
            (directory / "cgroup.procs").write_text(str(pid))

    def ran_out_of_memory(self) -> bool:
        """The kernel has ended one of its processes for want of memory."""
        for directory in self.directories:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    lines = (directory / name).read_text().splitlines()
                    return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in lines)
        return False

    def freeze(self) -> bool:
        """Have its processes stopped; they stand still once it is `frozen`. False: no group of its has a freezer."""
        return self._switch(on=True)

    def thaw(self) -> None:
        """Let its processes run again; they run already, or are gone: success."""
        self._switch(on=False)

    def frozen(self) -> bool:
        """All of its processes stand still."""
        for directory in self.directories:
            for name, line in _FROZEN:
                with contextlib.suppress(OSError):
                    return line in (directory / name).read_text().splitlines()
        return False

    def _switch(self, *, on: bool) -> bool:
        for directory in self.directories:
            for name, (frozen, thawed) in _SWITCHES.items():
                if (directory / name).exists():
                    try:
                        (directory / name).write_text(frozen if on else thawed)
                    except OSError:
                        if directory.exists():  # else it was removed meanwhile
                            raise
                    return True
        return False

    def remove(self) -> None:
        """Remove the groups, whose processes are dead or dying; already gone is success."""
        for directory in self.directories:
            _remove(directory)
            with contextlib.suppress(OSError):  # others are in it
                directory.parent.rmdir()


@dataclass(frozen=True, slots=True)
class CgroupSupport:
    """What this process can hold with cgroups. `parents`: controller -> directory under which groups are made."""

    version: int | None
    parents: dict[str, Path]
    detail: str

    @classmethod
    def detect(cls, root: Path = ROOT) -> "CgroupSupport":
        """Find out by trying. Blocks. With version 2 this process may move into a group of its own, as the kernel
        wants no processes in a group that has limited ones below it."""
        own = _own_groups()
        if (root / "cgroup.controllers").exists():
            return _detect_v2(cls, root, own.get("", "/"))
        parents = {}
        for controller in (*CONTROLLERS, FREEZER):
            for path in (own.get(controller), "/"):
                if path is not None and _usable(root / controller / path.lstrip("/")):
                    parents[controller] = root / controller / path.lstrip("/")
                    break
        if not parents:
            return cls(None, {}, f"no controller under {root} may be written")
        return cls(1, parents, f"cgroup version 1: {', '.join(parents)}")

    def remove_left_behind(self) -> None:
        """Remove groups that have stood empty for a while: of builders that a crash ended. Blocks."""
        for parent in set(self.parents.values()):
            for directory in (parent / GROUP).glob("*"):
                with contextlib.suppress(OSError):  # in use, or removed by somebody else
                    if time.time() - directory.stat().st_mtime > _LEFT_BEHIND_S:
                        directory.rmdir()

    def holds(self, controller: str) -> bool:
        return controller in self.parents

    def freezes(self) -> bool:
        return self.version == 2 or FREEZER in self.parents

    def named(self, name: str) -> Cgroup:
        """The groups of one sandbox, whether they are there or not."""
        return Cgroup(tuple(dict.fromkeys(parent / GROUP / name for parent in self.parents.values())))

    def create(self, name: str, limits: GroupLimits) -> Cgroup:
        """Make the groups of one sandbox. Blocks. Raises `OSError`; nothing is left then."""
        group = self.named(name)
        try:
            for directory in group.directories:
                _make(directory, self.version, CONTROLLERS)
            for controller, parent in self.parents.items():
                if controller in CONTROLLERS:
                    self._limit(controller, parent / GROUP / name, limits)
        except OSError:
            group.remove()
            raise
        return group

    def _limit(self, controller: str, directory: Path, limits: GroupLimits) -> None:
        memory = str(limits.memory_mb * MB)
        quota_us = max(MIN_CPU_QUOTA_US, int(limits.cpus * CPU_PERIOD_US))
        if controller == "pids":
            (directory / "pids.max").write_text(str(limits.pids))
        elif self.version == 2:
            if controller == "memory":
                (directory / "memory.max").write_text(memory)
                _write_if_there(directory / "memory.swap.max", "0")
            else:
                (directory / "cpu.max").write_text(f"{quota_us} {CPU_PERIOD_US}")
        elif controller == "memory":
            (directory / "memory.limit_in_bytes").write_text(memory)
            _write_if_there(directory / "memory.memsw.limit_in_bytes", memory)
        else:
            (directory / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_US))
            (directory / "cpu.cfs_quota_us").write_text(str(quota_us))


def _detect_v2(cls: type[CgroupSupport], root: Path, own: str) -> CgroupSupport:
    # The nearest first: limits that an operator set on the server's unit then hold for its sandboxes as well.
    nearest = root / own.lstrip("/")
    best: dict[str, Path] = {}
    for parent in (nearest, *nearest.parents):
        if not parent.is_relative_to(root):
            break
        if _usable(parent):
            enabled = _enabled(parent, change=parent in (nearest, root))
            if len(enabled) > len(best):
                best = dict.fromkeys(enabled, parent)
    if not best:
        return cls(None, {}, f"no group under {root} may be written; a systemd unit needs Delegate=yes")
    return cls(2, best, f"cgroup version 2 in {next(iter(best.values()))}: {', '.join(best)}")


def _enabled(parent: Path, *, change: bool) -> list[str]:
    """The controllers that groups below `parent` have, after turning on what can be."""
    missing = set(CONTROLLERS) - set((parent / "cgroup.subtree_control").read_text().split())
    if change and missing:
        if (parent / "cgroup.procs").read_text().split() == [str(os.getpid())]:
            with contextlib.suppress(OSError):
                (parent / SERVER_GROUP).mkdir(exist_ok=True)
                (parent / SERVER_GROUP / "cgroup.procs").write_text(str(os.getpid()))
        for controller in sorted(missing):
            with contextlib.suppress(OSError):
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")
                missing.discard(controller)
    return [controller for controller in CONTROLLERS if controller not in missing]


def _make(directory: Path, version: int | None, controllers: Sequence[str]) -> None:
    for _ in range(_REMOVE_TRIES):
        # Not `exist_ok`, which looks once more, and raises where another server's last sandbox took it along meanwhile.
        with contextlib.suppress(FileExistsError):
            directory.parent.mkdir()
        if version == 2:
            for controller in controllers:
                with contextlib.suppress(OSError):
                    (directory.parent / "cgroup.subtree_control").write_text(f"+{controller}")
        try:
            directory.mkdir()
        except FileNotFoundError:  # the last sandbox of another task left, and the parent with it
            continue
        return
    msg = f"{directory} cannot be made: its parent vanishes time and again"
    raise OSError(msg)


def _remove(directory: Path) -> None:
    for _ in range(_REMOVE_TRIES):
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # busy: its last process is on its way out
            time.sleep(_REMOVE_PAUSE_S)
        else:
            return
    log.warning("cgroup_left", directory=str(directory))


def _usable(parent: Path) -> bool:
    probe = parent / f"{GROUP}-probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def _own_groups() -> dict[str, str]:
    """Controller -> path of this process' group; version 2 under the name ""."""
    groups = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def _write_if_there(path: Path, value: str) -> None:
    with contextlib.suppress(OSError):  # the kernel was built or started without swap accounting
        path.write_text(value)
