"""What a sandbox is started with under bubblewrap: its arguments and resource limits. Pure; tested as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.sandboxes.layout import ENV, LANDLOCK, LIB, LINK, SHARED_COMMAND, TMP, VARIABLES

MB = 1024 * 1024
SHM = "/dev/shm"  # noqa: S108
SHM_MB = 64
MQUEUE = "/dev/mqueue"
FILES_PER_MB = 256  # of a tmpfs: one for every 4 KiB
SHARING_CAPABILITIES = ("SETUID", "SETGID", "SETPCAP")  # it keeps the first two
BUILDER_PIDS = 512
BUILDER_NOFILE = 8192
SANDBOX_ID = 1000  # uid and gid as seen inside; named in `ETC_FILES`

# Host files that programs need and that say nothing of the host; those that are not there are left out.
HOST_ETC = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/mime.types",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)
ETC_FILES = {
    "passwd": f"root:x:0:0::/:/bin/false\nsandbox:x:{SANDBOX_ID}:{SANDBOX_ID}::{TMP}:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/false\n",
    "group": f"root:x:0:\nsandbox:x:{SANDBOX_ID}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
# Of /proc: what tells of the host or its keys, or commands the kernel. Files first, then directories.
MASKED_FILES = (
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/proc/timer_stats",
)
MASKED_DIRECTORIES = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/driver",
    "/proc/fs",
    "/proc/irq",
    "/proc/scsi",
)


@dataclass(frozen=True, slots=True)
class Host:
    """What a host has, found out once (`bubblewrap.host`)."""

    bwrap: str
    links: Mapping[str, str]  # of /bin, /lib, /lib64, /sbin: those that are symbolic links, and where to
    directories: Sequence[str]  # and those that are directories
    masked_files: Sequence[str]  # of MASKED_FILES, those that are there
    masked_directories: Sequence[str]
    etc: Path  # holds ETC_FILES, and an empty directory called "empty"
    can_disable_userns: bool  # bubblewrap 0.8 and newer
    landlock: bool  # sandboxes hold themselves to its rules


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or directory of the host, at a place inside; read-only unless said otherwise."""

    source: Path
    target: str
    writable: bool = False


def session_argv(
    host: Host, *, env: Path, lib: Path, link: Path, prefix: Path | None, disk_mb: int, share: int | None = None
) -> list[str]:
    """A session's sandbox: runs the runner as process 1. `prefix`: the interpreter's, where it is outside of /usr. `share`: the
    first user id of a shared sandbox."""
    mounts = [Mount(env, ENV), Mount(lib, LIB), Mount(link, LINK), *_prefix(prefix)]
    # Not the environment's own interpreter: a package may have put another there, and its `.pth` files come first.
    command = [*SHARED_COMMAND, *([] if share is None else [f"share={share}"]), *_rules(host, mounts)]
    return [*_sandbox(host, mounts, tmp_mb=disk_mb, shared=share is not None), "--", *command]


def builder_argv(
    host: Host, command: Sequence[str], *, mounts: Sequence[Mount], prefix: Path | None, tmp_mb: int
) -> list[str]:
    """A builder's sandbox. It ends with the thread that started it, which watches it all the while. `command` begins with the
    interpreter's path."""
    mounts = [*mounts, *_prefix(prefix)]
    rules = _rules(host, mounts)
    held = [command[0], "-I", "-S", LANDLOCK, *rules, "--"] if rules else []
    return [*_sandbox(host, mounts, tmp_mb=tmp_mb), "--die-with-parent", "--", *held, *command]


def trial_argv(host: Host) -> list[str]:
    """A sandbox that ends at once, with code 0, if all that others need can be had."""
    return [*_sandbox(host, [], tmp_mb=1), "--", "/usr/bin/true"]


def tmpfs_files(tmp_mb: int) -> dict[str, int]:
    """How many files each tmpfs of a sandbox may hold, by its path."""
    return {TMP: tmp_mb * FILES_PER_MB, SHM: _shm_mb(tmp_mb) * FILES_PER_MB}


def session_limits(*, pids: int, nofile: int, memory_mb: int, own_uid: bool, memory_held: bool) -> dict[str, int]:
    """Limits by the names of util-linux's `prlimit`. Processes are counted by user id, so that only a sandbox with one of its own
    can be limited by it; address space stands in for memory where no cgroup holds that."""
    limits = {"nofile": nofile, "core": 0}
    if own_uid:
        limits["nproc"] = pids + 1  # bubblewrap itself waits outside under the same id
    if not memory_held:
        limits["data"] = memory_mb * MB
    return limits


def builder_limits(*, memory_mb: int, disk_mb: int, own_uid: bool, memory_held: bool) -> dict[str, int]:
    limits = session_limits(
        pids=BUILDER_PIDS, nofile=BUILDER_NOFILE, memory_mb=memory_mb, own_uid=own_uid, memory_held=memory_held
    )
    return {**limits, "fsize": disk_mb * MB}


def interpreter_prefix(interpreter: Path) -> Path | None:
    """What has to be visible for a resolved interpreter to work, besides /usr. Raises `ValueError`: it is all there is."""
    if interpreter.is_relative_to("/usr"):
        return None
    prefix = interpreter.parent.parent
    if prefix == Path("/"):
        msg = f"{interpreter} lies so near the root that all of the host would have to be visible in sandboxes"
        raise ValueError(msg)
    return prefix


def _rules(host: Host, mounts: Sequence[Mount]) -> list[str]:
    """What Landlock is to allow (`runner/landlock.py`): what a sandbox was given, and nothing else that may get mounted."""
    if not host.landlock:
        return []
    readable = ["/usr", *host.directories, "/etc", "/proc", "/dev", *(mount.target for mount in mounts)]
    writable = [TMP, SHM, MQUEUE, *(mount.target for mount in mounts if mount.writable)]
    return [*(f"read={path}" for path in readable), *(f"write={path}" for path in writable)]


def _prefix(prefix: Path | None) -> list[Mount]:
    return [] if prefix is None else [Mount(prefix, str(prefix))]


def _sandbox(host: Host, mounts: Sequence[Mount], *, tmp_mb: int, shared: bool = False) -> list[str]:
    arguments = [host.bwrap]
    for namespace in ("pid", "net", "ipc", "uts", "cgroup-try"):
        arguments.append(f"--unshare-{namespace}")
    arguments += ["--cap-drop", "ALL", "--hostname", "sandbox"]
    arguments += ["--as-pid-1", "--new-session", "--clearenv", "--chdir", TMP]
    arguments += _shared() if shared else _user(host)
    for name, value in VARIABLES.items():
        arguments += ["--setenv", name, value]
    return [
        *arguments,
        *_system(host),
        *_proc_and_dev(host),
        *_writable(tmp_mb),
        *(_passable(mounts) if shared else ()),
        *_mounted(mounts),
        "--remount-ro",
        "/",
    ]


def _user(host: Host) -> list[str]:
    """One user id, in a user namespace."""
    arguments = ["--unshare-user", "--uid", str(SANDBOX_ID), "--gid", str(SANDBOX_ID)]
    return [*arguments, "--disable-userns"] if host.can_disable_userns else arguments


def _shared() -> list[str]:
    """Many user ids. A user namespace of one user has one only, so there is none: process 1 starts as the host's root with
    these rights alone, and becomes another before anything of an environment runs (`runner/privileges.py`)."""
    return [word for name in SHARING_CAPABILITIES for word in ("--cap-add", f"CAP_{name}")]


def _system(host: Host) -> list[str]:
    arguments = ["--ro-bind", "/usr", "/usr"]
    for path, target in host.links.items():
        arguments += ["--symlink", target, path]
    for path in host.directories:
        arguments += ["--ro-bind", path, path]
    for path in HOST_ETC:
        arguments += ["--ro-bind-try", path, path]
    for name in ETC_FILES:
        arguments += ["--ro-bind", str(host.etc / name), f"/etc/{name}"]
    return arguments


def _proc_and_dev(host: Host) -> list[str]:
    arguments = ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
    for path in host.masked_files:
        arguments += ["--ro-bind", "/dev/null", path]
    for path in host.masked_directories:
        arguments += ["--ro-bind", str(host.etc / "empty"), path]
    # bubblewrap's /dev is a tmpfs of half the memory that the sandbox could fill.
    return [*arguments, "--dev", "/dev", "--mqueue", MQUEUE, "--remount-ro", "/dev"]


def _writable(tmp_mb: int) -> list[str]:
    arguments = ["--perms", "1777", "--size", str(tmp_mb * MB), "--tmpfs", TMP]
    return [*arguments, "--perms", "1777", "--size", str(_shm_mb(tmp_mb) * MB), "--tmpfs", SHM]


def _shm_mb(tmp_mb: int) -> int:
    return min(SHM_MB, tmp_mb)


def _passable(mounts: Sequence[Mount]) -> list[str]:
    """What mounts lie in, for all users: bubblewrap makes it for the one who starts it."""
    parents = dict.fromkeys(parent for mount in mounts for parent in reversed(Path(mount.target).parents))
    return [word for parent in parents if parent != Path("/") for word in ("--dir", str(parent))]


def _mounted(mounts: Sequence[Mount]) -> list[str]:
    arguments = []
    for mount in mounts:
        arguments += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.target]
    return arguments
