"""What a server has, or has left, on its machine: taken before a fault, and held against what is there after it.

Only what is this very server's is looked at, so that others may run beside it: containers by its label, processes and
mounts by its data directory's name, control groups by one of its own (`IN_A_GROUP`), descriptors by its process.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

import docker
import pytest

from orchestrator.sandboxes.docker.options import ENVIRONMENT_IMAGE, KIND
from tests.servers import Server

CGROUPS = Path("/sys/fs/cgroup")
INSTANCE = "io.kodou.instance"
_LOOK_S = 0.1
_BUILDERS_S = 60.0

# A server's prefix: it moves into a control group of its own, below which it makes those of its sandboxes. Where that
# may not be had (not root), it goes on without. All controllers: a server whose clock a drill puts forward would take
# other servers' groups, empty just then, for old ones.
IN_A_GROUP = (
    "/bin/sh",
    "-c",
    """for parent in /sys/fs/cgroup /sys/fs/cgroup/memory /sys/fs/cgroup/pids /sys/fs/cgroup/cpu /sys/fs/cgroup/freezer
       do
           group=$parent/kodou-drill-${KODOU_DATA_DIR##*/}
           test -e $parent/cgroup.procs && mkdir -p $group && echo $$ >$group/cgroup.procs
       done 2>/dev/null
       exec "$@" """,
    "sh",
)

# What a server keeps for the next request, and how many of it at most; of all else it has no more than before.
# ("/": what the event loop keeps open, to have a descriptor left when there are no others.)
_POOLED = {"threads": 64, "unnamed unix socket": 40, "tcp to elsewhere": 10, "kodou.sqlite": 24, "/": 1}


@dataclass(frozen=True)
class AtRest:
    """Each set holds one line of text for each thing that is there; `descriptors` and `threads` are the server's own."""

    containers: frozenset[str]
    networks: frozenset[str]
    nameless_images: frozenset[str]  # half of one, or what a build was cut off from naming
    processes: frozenset[str]  # of sandboxes and builders, and the server's children; its zombies too
    cgroups: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]  # run directories with their sockets, workspaces, handles, drafts
    descriptors: Mapping[str, int]  # by what they lead to; connections of this test's own clients left out
    threads: int

    def builders(self) -> list[str]:
        """Containers of builds, and workspaces."""
        return [each for each in (*self.containers, *self.files) if each.startswith(("/kodou-build-", "builds/build-"))]

    def gained(self, before: "AtRest") -> list[str]:
        """In words, what is here now and was not before, and what is gone that was here."""
        words = []
        for field in fields(self):
            was, now = getattr(before, field.name), getattr(self, field.name)
            if isinstance(now, frozenset):
                words += [f"{field.name}: new: {each}" for each in sorted(now - was)]
                words += [f"{field.name}: gone: {each}" for each in sorted(was - now)]
        counted = {**self.descriptors, "threads": self.threads}
        were = {**before.descriptors, "threads": before.threads}
        for name, count in counted.items():
            if count > max(were.get(name, 0), _POOLED.get(name, 0)):
                words.append(f"server: {count} of {name!r}, {were.get(name, 0)} before")
        return words


def at_rest(server: Server) -> AtRest:
    """What is there, once no builder is: one that is done is removed behind the reply, and would be missed later."""
    until = time.monotonic() + _BUILDERS_S
    while (found := _look(server)).builders() and time.monotonic() < until:
        time.sleep(_LOOK_S)
    return found


def _look(server: Server) -> AtRest:
    """What is there now. The server may have ended: then it has no descriptors and threads."""
    containers, networks, images = _on_engine(server) if server.backend == "docker" else ((), (), ())
    groups = _groups(server)
    return AtRest(
        containers=frozenset(containers),
        networks=frozenset(networks),
        nameless_images=frozenset(images),
        processes=frozenset(_processes(server, groups)),
        cgroups=frozenset(str(path.relative_to(CGROUPS)) for path in groups),
        mounts=frozenset(line for line in _lines(Path("/proc/self/mountinfo")) if server.data_dir.name in line),
        files=frozenset(_files(server.data_dir)),
        descriptors=_descriptors(server),
        threads=len(_entries(Path(f"/proc/{server.process.pid}/task"))),
    )


def back_to(before: AtRest, server: Server, within_s: float = 120.0) -> None:
    """Wait until the server is at rest as it was; fail with what is different, in words."""
    until = time.monotonic() + within_s
    while words := _look(server).gained(before):
        if time.monotonic() > until:
            told = "\n".join(words)
            pytest.fail(f"not back at rest within {within_s:g} s:\n{told}\n\nserver log:\n{_log_end(server)}")
        time.sleep(_LOOK_S)


def age_groups(server: Server) -> None:
    """Make control groups look older than a builder's that is just being started: left ones are not waited for then."""
    for path in _groups(server):
        with suppress(OSError):
            os.utime(path, (0, 0))


def remove_groups(server: Server) -> None:
    """Those that `IN_A_GROUP` made, and what is left in them, once the server has ended."""
    for parent in _parents(server):
        below = sorted((path for path in parent.rglob("*") if path.is_dir()), reverse=True)
        for path in (*below, parent):
            with suppress(OSError):
                path.rmdir()


def instance_of(server: Server) -> str:
    return (server.data_dir / "instance").read_text().strip()


@contextmanager
def engine() -> Iterator[docker.APIClient]:
    """The engine itself, whatever stands between it and the server."""
    client = docker.APIClient(**docker.utils.kwargs_from_env(), timeout=60)
    try:
        yield client
    finally:
        client.close()


def _on_engine(server: Server) -> tuple[list[str], list[str], list[str]]:
    ours = {"label": [f"{INSTANCE}={instance_of(server)}"]}
    with engine() as client:
        containers = [f"{each['Names'][0]} ({each['State']})" for each in client.containers(all=True, filters=ours)]
        networks = [each["Name"] for each in client.networks(filters=ours)]
        # (Not runner images: one that another server makes in the same moment takes the name of this server's.)
        nameless = {"label": [*ours["label"], f"{KIND}={ENVIRONMENT_IMAGE}"], "dangling": True}
        images = [each["Id"] for each in client.images(filters=nameless)]
    return containers, networks, images


def _parents(server: Server) -> list[Path]:
    name = f"kodou-drill-{server.data_dir.name}"
    return [CGROUPS / name, *(CGROUPS / each / name for each in ("memory", "pids", "cpu", "freezer"))]


def _groups(server: Server) -> list[Path]:
    """Of its sandboxes, the innermost first."""
    found: list[Path] = []
    for parent in _parents(server):
        with suppress(FileNotFoundError):  # one went while they were listed
            found += (path for path in parent.rglob("*") if path.is_dir())
    # Where groups have one tree, the server moves into one beside its sandboxes'; and the parent comes and goes with them.
    ours = [path for path in found if re.fullmatch(r"[0-9a-f]{32}", path.name)]
    return sorted(ours, reverse=True)


def _processes(server: Server, groups: list[Path]) -> Iterator[str]:
    name = server.data_dir.name
    inside = [*groups, *_parents(server)]
    grouped = {pid for group in inside for pid in _lines(group / "cgroup.procs")}
    for directory in Path("/proc").glob("[0-9]*"):
        pid = directory.name
        if int(pid) in (os.getpid(), server.process.pid):
            continue
        with suppress(OSError, IndexError):
            state, parent = (directory / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (directory / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
            child = parent == str(server.process.pid) and server.process.returncode is None
            if child or pid in grouped or name in command or _is_inside(directory, name):
                yield f"{pid} {state} {command or (directory / 'comm').read_text().strip()}"[:200]


def _is_inside(process: Path, name: str) -> bool:
    """Something of the data directory is mounted for this process, as it is in a sandbox."""
    with suppress(OSError):
        return name in (process / "mountinfo").read_text(errors="replace")
    return False


def _files(data_dir: Path) -> Iterator[str]:
    for pattern in ("run/**/*", "builds/*", "handles/*/*", "wheels/.parts/*", "environments/.*", "tools/.*", ".*"):
        for path in data_dir.glob(pattern):
            with suppress(OSError):
                yield f"{path.relative_to(data_dir)}{'' if path.is_dir() else ' (socket)' if path.is_socket() else ''}"


def _descriptors(server: Server) -> Mapping[str, int]:
    targets = [_target(fd) for fd in _entries(Path(f"/proc/{server.process.pid}/fd"))]
    sockets = _sockets(server.process.pid)
    named = (sockets.get(each, "other socket") if each.startswith("socket:") else each for each in targets)
    return Counter(_plain(each, server) for each in named if each and each != _OWN)


_OWN = "a client of this test"


def _sockets(pid: int) -> dict[str, str]:
    """What each socket is, by how a descriptor names it."""
    own = {_target(fd) for fd in _entries(Path("/proc/self/fd"))}
    found: dict[str, str] = {}
    for line in _lines(Path(f"/proc/{pid}/net/unix"))[1:]:
        words = line.split()
        found[f"socket:[{words[6]}]"] = f"unix socket {words[7]}" if len(words) > 7 else "unnamed unix socket"
    connections = [line.split() for file in ("tcp", "tcp6") for line in _lines(Path(f"/proc/{pid}/net/{file}"))[1:]]
    listening = {_port(words[1]) for words in connections if words[3] == "0A"}
    clients = {_port(words[1]) for words in connections if f"socket:[{words[9]}]" in own}
    for words in connections:
        local, remote = _port(words[1]), _port(words[2])
        kind = "tcp to elsewhere"
        if words[3] == "0A":
            kind = "listening tcp socket"
        elif local in listening:
            kind = _OWN if remote in clients else "tcp from a client"
        found[f"socket:[{words[9]}]"] = kind
    return found


def _plain(target: str, server: Server) -> str:
    target = target.replace(str(server.data_dir), "").removesuffix(" (deleted)")
    if target.startswith("/kodou.sqlite"):
        return "kodou.sqlite"
    return re.sub(r"\d+", "N", target)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def _target(fd: Path) -> str:
    with suppress(OSError):
        return str(fd.readlink())
    return ""


def _entries(directory: Path) -> list[Path]:
    with suppress(OSError):
        return list(directory.iterdir())
    return []


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(errors="replace").splitlines()
    return []


def _log_end(server: Server) -> str:
    return server.log.read_text(errors="replace")[-6000:] if server.log.exists() else ""
