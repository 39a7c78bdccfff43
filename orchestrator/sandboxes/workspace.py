"""What a builder sandbox is given: a directory of the host, mounted read-only, that goes away with the build."""

import asyncio
import fcntl
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from orchestrator.sandboxes.directories.trees import delete
from orchestrator.telemetry import log

_PREFIX = "build-"
_READABLE_BY_ALL = 0o004


class Workspace:
    """`<builds dir>/build-<id>/`: `build` is mounted at /build, `index` holds the index proxy's socket.

    Its owner holds a lock on it, which ends with the process: so a workspace that a crash left, and the builder
    sandbox that belongs to it, can be told from those of a build under way, in this process or another.
    """

    def __init__(self, root: Path) -> None:
        self.id = root.name.removeprefix(_PREFIX)  # 16 hex digits; names the builder sandbox as well
        self.build = root / "build"
        self.files = self.build / "files"
        self.index = root / "index"
        self.root = root

    @classmethod
    @asynccontextmanager
    async def held(cls, builds_dir: Path) -> "AsyncIterator[Workspace]":
        """An empty one. Raises `OSError`."""
        root = builds_dir / f"{_PREFIX}{secrets.token_hex(8)}"
        lock = await asyncio.to_thread(_make, root)
        try:
            yield cls(root)
        finally:
            await asyncio.to_thread(_remove, root, lock)

    async def add(self, sources: Sequence[Path], *, into: Path) -> None:
        """Put files of this host into a directory of the workspace under their own names. Raises `OSError`."""
        await asyncio.to_thread(_add, sources, into)

    async def write(self, path: Path, data: bytes) -> None:
        """Make a file of the workspace. Raises `OSError`."""
        await asyncio.to_thread(_write, path, data)


def left_behind(builds_dir: Path) -> None:
    """Remove the workspaces that a crash left. Blocks."""
    for root in builds_dir.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # removed meanwhile by its owner, or locked: its build is under way
            _remove(root, _locked(root))


def is_held(builds_dir: Path, workspace_id: str) -> bool:
    """A process works with it. Blocks."""
    try:
        os.close(_locked(builds_dir / f"{_PREFIX}{workspace_id}"))
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _locked(directory: Path) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _make(root: Path) -> int:
    root.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    root.mkdir(mode=0o700)
    try:
        root.chmod(0o711)  # the build user's way to what is in it
        lock = _locked(root)
        for name in ("build", "build/files", "index"):
            (root / name).mkdir()
            (root / name).chmod(0o755)  # whatever the umask is: the build user reads it
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    return lock


def _remove(root: Path, lock: int) -> None:
    try:
        delete(root)
    except OSError as exc:
        log.warning("workspace_left", directory=str(root), error=str(exc))
    finally:
        os.close(lock)


def _add(sources: Sequence[Path], into: Path) -> None:
    for source in sources:
        target = into / source.name
        if source.stat().st_mode & _READABLE_BY_ALL:
            # A link where that can be: the mount is read-only, so nothing inside can change the original.
            with suppress(OSError):
                target.hardlink_to(source)
                continue
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o644)  # whatever the umask is
