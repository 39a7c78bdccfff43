"""What this host has for bubblewrap: found out once, and tried for real."""

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runner import landlock

from orchestrator.errors import EngineUnavailable, KodouError
from orchestrator.sandboxes import seccomp
from orchestrator.sandboxes.bubblewrap.cgroups import CgroupSupport
from orchestrator.sandboxes.bubblewrap.launch import Launched, launch
from orchestrator.sandboxes.bubblewrap.options import (
    ETC_FILES,
    MASKED_DIRECTORIES,
    MASKED_FILES,
    Host,
    session_limits,
    tmpfs_files,
    trial_argv,
)
from orchestrator.sandboxes.bubblewrap.wrapping import TOOLS_PATH
from orchestrator.sandboxes.promises import SHARED_SANDBOXES, Promise
from orchestrator.sandboxes.uids import Uids
from orchestrator.settings import Settings

BUILD_UIDS = 64  # set apart from those of sessions; builders take one each while they run
TRIAL_TIMEOUT_S = 20.0
_USR_MERGED = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
_DISABLE_USERNS_SINCE = (0, 8)


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found out about this host."""

    host: Host
    groups: CgroupSupport

    @classmethod
    def look(cls, settings: Settings) -> "Machine":
        """Blocks. Raises `EngineUnavailable`."""
        seccomp.compiled()
        groups = CgroupSupport.detect()
        groups.remove_left_behind()
        return cls(host(settings), groups)


@dataclass(frozen=True, slots=True)
class UserIds:
    """Who sandboxes are on this host."""

    sessions: Uids
    builders: Uids

    @classmethod
    def of(cls, settings: Settings) -> "UserIds | None":
        """None: not root, so that they all are who the server is. Raises `EngineUnavailable`: there are too few ids."""
        if os.geteuid() != 0:
            return None
        sessions = settings.sandbox_uid_count - BUILD_UIDS
        if sessions < 1:
            msg = f"KODOU_SANDBOX_UID_COUNT must be over {BUILD_UIDS}: builders take that many"
            raise EngineUnavailable(msg)
        base = settings.sandbox_uid_base
        return cls(Uids(base, sessions), Uids(base + sessions, BUILD_UIDS))


def host(settings: Settings) -> Host:
    """Blocks; makes files in the data directory. Raises `EngineUnavailable`: there is no bubblewrap."""
    bwrap = shutil.which("bwrap", path=TOOLS_PATH) or shutil.which("bwrap")
    if bwrap is None:
        msg = "bubblewrap is not installed: there is no `bwrap` (Debian, Ubuntu, Fedora: package `bubblewrap`)"
        raise EngineUnavailable(msg)
    return Host(
        bwrap=bwrap,
        links={path: str(Path(path).readlink()) for path in _USR_MERGED if Path(path).is_symlink()},
        directories=[path for path in _USR_MERGED if Path(path).is_dir() and not Path(path).is_symlink()],
        masked_files=[path for path in MASKED_FILES if Path(path).exists()],
        masked_directories=[path for path in MASKED_DIRECTORIES if Path(path).is_dir()],
        etc=_etc(settings),
        can_disable_userns=_version(bwrap) >= _DISABLE_USERNS_SINCE,
        landlock=_landlock(settings),
    )


def _landlock(settings: Settings) -> bool:
    if settings.landlock == "off":
        return False
    served = landlock.abi() >= landlock.LEAST_ABI
    if settings.landlock == "required" and not served:
        msg = f"KODOU_LANDLOCK is `required`, and {_landlock_detail()}"
        raise EngineUnavailable(msg)
    return served


def _landlock_detail() -> str:
    version = landlock.abi()
    if version < landlock.LEAST_ABI:
        return f"this kernel has no Landlock that serves (interface {version}): Linux 5.19, with `landlock` in `lsm=`"
    return f"interface {version}: files{', signals and abstract sockets' if version >= landlock.SCOPES_SINCE else ''}"


async def check(settings: Settings) -> str | None:
    """Why bubblewrap cannot make sandboxes here, and what to do; None: it can. Starts one to find out."""
    return await asyncio.to_thread(_check, settings)


async def promises(settings: Settings) -> list[Promise]:
    """What a sandbox of this backend is held to on this machine, and what it is not."""
    return await asyncio.to_thread(_promises, settings)


def _check(settings: Settings) -> str | None:
    trial = _trial(settings)
    return trial if isinstance(trial, str) else None


def _trial(settings: Settings) -> Launched | str:
    """A sandbox that was started and has ended well; or why not."""
    try:
        ids = UserIds.of(settings)
        uid = None if ids is None else ids.builders.take(secrets.token_hex(16))
        # Its processes are not counted: a server beside this one may be building under the same id.
        limits = session_limits(pids=8, nofile=64, memory_mb=256, own_uid=False, memory_held=False)
        launched = launch(
            trial_argv(host(settings)), uid=uid, limits=limits, cgroup=None, files=tmpfs_files(1), output=True
        )
    except (KodouError, RuntimeError, OSError) as exc:
        return f"{exc}{_advice()}"
    try:
        _, said = launched.outer.communicate(timeout=TRIAL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"a sandbox that should end at once still ran after {TRIAL_TIMEOUT_S:g} s"
    finally:
        launched.kill()
    if launched.outer.returncode == 0:
        return launched
    return f"bubblewrap could not start a sandbox: {said.decode(errors='replace').strip()}{_advice()}"


def _promises(settings: Settings) -> list[Promise]:
    trial = _trial(settings)
    if isinstance(trial, str):
        return [Promise("sandboxes", held=False, detail=trial)]
    root = os.geteuid() == 0
    groups = CgroupSupport.detect()
    return [
        Promise("namespaces", held=True, detail="user, process, network, IPC, mount and host name"),
        Promise("system call filter", held=True, detail="seccomp.json"),
        Promise(
            "second wall",
            held=_landlock(settings),
            detail=f"Landlock, {'off by KODOU_LANDLOCK' if settings.landlock == 'off' else _landlock_detail()}",
        ),
        Promise(
            "no nested user namespaces",
            held=host(settings).can_disable_userns,
            detail="bubblewrap --disable-userns; older than 0.8, only the system call filter holds this",
        ),
        Promise(
            "a user id for each sandbox",
            held=root,
            detail="from KODOU_SANDBOX_UID_BASE"
            if root
            else "needs a server that runs as root; sandboxes share its id",
        ),
        Promise(
            "memory limit", held=groups.holds("memory"), detail=_group_detail(groups, "each process alone is limited")
        ),
        Promise(
            "process limit",
            held=groups.holds("pids") or root,
            detail=_group_detail(groups, "counted by user id" if root else "nothing limits them"),
        ),
        Promise("processor limit", held=groups.holds("cpu"), detail=_group_detail(groups, "nothing limits it")),
        Promise(
            "idle sandboxes freeze",
            held=groups.freezes(),
            detail=_group_detail(groups, "KODOU_FREEZE_IDLE_S does nothing"),
        ),
        Promise("disk limit", held=True, detail="only memory file systems of a set size can be written"),
        Promise(
            "limit on the number of files",
            held=trial.files_limited,
            detail="set by root, on Linux 5.2 and newer; else the memory limit ends a sandbox that makes too many",
        ),
        Promise("no network", held=True, detail="but loopback; `network: egress` is a proxy to public addresses"),
        *(_sharing(root=root) if settings.share_sandboxes != "never" else ()),
    ]


def _sharing(*, root: bool) -> list[Promise]:
    return [Promise(SHARED_SANDBOXES, root, "they need a server that runs as root, which has user ids to give")]


def _group_detail(groups: CgroupSupport, otherwise: str) -> str:
    return groups.detail if groups.version is not None else f"{groups.detail}; {otherwise}"


def _advice() -> str:
    """The usual reasons why an unprivileged user may make no namespace, where the kernel tells them."""
    for path, refused, advice in (
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "set sysctl kernel.unprivileged_userns_clone=1"),
        ("/proc/sys/user/max_user_namespaces", "0", "raise sysctl user.max_user_namespaces"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "allow bwrap user namespaces with an AppArmor profile, or set sysctl "
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ):
        with contextlib.suppress(OSError):
            if Path(path).read_text().strip() == refused:
                return f"; {advice}"
    return ""


def _version(bwrap: str) -> tuple[int, ...]:
    printed = subprocess.run([bwrap, "--version"], capture_output=True, text=True, check=False).stdout
    return tuple(int(number) for number in re.findall(r"[0-9]+", printed))


def _etc(settings: Settings) -> Path:
    """The few files of /etc that sandboxes see in place of the host's."""
    directory = settings.data_dir / "tools" / "etc"
    settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    (directory / "empty").mkdir(parents=True, exist_ok=True)
    for name, content in ETC_FILES.items():
        path = directory / name
        if not path.exists() or path.read_text() != content:
            new = directory / f".{name}-{secrets.token_hex(4)}"
            new.write_text(content)
            new.chmod(0o644)
            new.replace(path)
    for path in (directory.parent, directory, directory / "empty"):
        path.chmod(0o755)  # whatever the umask is
    return directory
