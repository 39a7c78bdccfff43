"""The driver's socket, and who may use it: by the user id that the kernel vouches for."""

import contextlib
import fcntl
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import KodouError
from orchestrator.settings import Settings

MODE = 0o660
_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket, non-blocking, and the user ids that are served."""

    listener: socket.socket
    uids: frozenset[int]


@contextmanager
def opened(path: Path, settings: Settings) -> Iterator[Door]:
    """Listen at `path`, in place of a driver that has ended. It belongs to the first of `driver_users`, else to its
    directory's owner, where this process may give it away. Raises `KodouError`, `OSError`."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    users = [_uid(user) for user in settings.driver_users]
    with contextlib.ExitStack() as stack:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        owner = os.fstat(directory)
        _remove_socket(path.name, directory)
        listener = stack.enter_context(
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        )
        # Through the descriptor, so that the path may be as long as it likes; nobody can connect before `listen`.
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        stack.callback(_remove_socket, path.name, directory)
        if os.geteuid() == 0:
            os.chown(path.name, users[0] if users else owner.st_uid, owner.st_gid, dir_fd=directory)
        os.chmod(path.name, MODE, dir_fd=directory)
        listener.listen(_BACKLOG)
        yield Door(listener, frozenset({os.geteuid(), owner.st_uid, *users}))


@contextmanager
def claimed(data_dir: Path) -> Iterator[None]:
    """One driver for a data directory. Raises `KodouError`: another runs on it."""
    data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    descriptor = os.open(data_dir / "driver.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = "a kodou driver runs on this data directory already: stop it, or give this one its own KODOU_DATA_DIR"
            raise KodouError(msg) from None
        yield
    finally:
        os.close(descriptor)


def _remove_socket(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            msg = f"{name} is something else than a socket: choose another KODOU_DRIVER_SOCKET"
            raise KodouError(msg)
        os.unlink(name, dir_fd=directory)


def _uid(user: str) -> int:
    if user.isdecimal() and user.isascii():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        msg = f"KODOU_DRIVER_USERS: there is no user {user!r}"
        raise KodouError(msg) from None
