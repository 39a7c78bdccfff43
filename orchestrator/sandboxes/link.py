"""The one way between orchestrator and runner: a Unix socket that the orchestrator listens on and the runner connects to.

The socket lies in a directory of its own, which is mounted read-only in the sandbox, so no path that the sandbox can
write is ever followed by the host. All that is done to it goes through a descriptor of that directory: the length of
the data directory's path does not matter, and nothing planted at a path is opened.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from orchestrator.telemetry import log

SOCKET_NAME = "s"

# Connections that wait unaccepted: a fresh worker's, and one that its predecessor left behind.
_BACKLOG = 2
_ACCEPT_RETRY_S = 1.0
_PEER_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Link:
    """A listening socket in `run_dir/<sandbox id>/`. Making one blocks on the file system: do it in a thread.

    Where `owner` is given, directory and socket belong to that user id and open to no other; else all may connect who
    know the random name. `peer_uid` is the user id that a connecting process must have as seen from this host, None
    if that is not known beforehand (a remapped user namespace). `passable`: others may pass through the directory, to those
    below it whose names they know.
    """

    def __init__(self, directory: Path, listener: socket.socket, *, peer_uid: int | None, reopened: bool) -> None:
        self.directory = directory  # what is mounted at /run/kodou
        self.reopened = reopened  # a runner may be there already, with a worker and its state
        self.peer_uid = peer_uid
        self._listener = listener
        self._accepting: asyncio.AbstractEventLoop | None = None

    @classmethod
    def create(
        cls,
        run_dir: Path,
        sandbox_id: str,
        *,
        owner: int | None = None,
        peer_uid: int | None = None,
        passable: bool = False,
    ) -> "Link":
        """Make the directory and listen in it. Raises `OSError`; nothing is left then."""
        _shared_directory(run_dir)
        directory = run_dir / sandbox_id
        directory.mkdir(mode=0o700)
        try:
            listener = listen(directory, owner=owner, passable=passable)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return cls(directory, listener, peer_uid=peer_uid, reopened=False)

    @classmethod
    def reopen(cls, run_dir: Path, sandbox_id: str, *, owner: int | None = None, peer_uid: int | None = None) -> "Link":
        """Listen again where an earlier link was, whose process crashed or let go. Raises `OSError`."""
        directory = run_dir / sandbox_id
        return cls(directory, listen(directory, owner=owner), peer_uid=peer_uid, reopened=True)

    @classmethod
    def received(cls, descriptor: int, sandbox_id: str, *, peer_uid: int | None, reopened: bool) -> "Link":
        """The link of a sandbox whose listening socket another process has handed over; `directory` tells its name only.
        Owns the descriptor. Raises `OSError`: it is something else."""
        listener = socket.socket(fileno=descriptor)
        listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if (listener.family, listener.type, listening) != (socket.AF_UNIX, socket.SOCK_STREAM, 1):
            listener.close()
            msg = "what was handed over is no listening socket"
            raise OSError(msg)
        listener.setblocking(False)
        return cls(Path(sandbox_id), listener, peer_uid=peer_uid, reopened=reopened)

    @staticmethod
    def remove(run_dir: Path, sandbox_id: str) -> None:
        """Remove the directory, once the sandbox is gone; already gone is success. Blocks."""
        shutil.rmtree(run_dir / sandbox_id, ignore_errors=True)

    def fileno(self) -> int:
        """The listening socket's descriptor, to be handed to another process, which goes on where this one closes."""
        return self._listener.fileno()

    def accept(self, on_connection: Callable[[socket.socket], None]) -> None:
        """Hand each connection that comes from now on to `on_connection`, until `pause`. May be called twice."""
        if self._accepting is None and self._listener.fileno() >= 0:
            self._accepting = asyncio.get_running_loop()
            self._accepting.add_reader(self._listener.fileno(), self._connection, on_connection)

    def pause(self) -> None:
        """Accept no more. Who connects waits in a short queue: a hostile runner gets no work done here by connecting."""
        if self._accepting is not None:
            self._accepting.remove_reader(self._listener.fileno())
            self._accepting = None

    def refuse_waiting(self) -> None:
        """Close all connections that wait unaccepted."""
        with contextlib.suppress(OSError):
            for _ in range(_BACKLOG + 1):  # bounded: a hostile runner may connect as fast as it is refused
                self._listener.accept()[0].close()

    def close(self) -> None:
        """Stop listening; the directory stays for `reopen`. May be called twice."""
        self.pause()
        self._listener.close()

    def _connection(self, on_connection: Callable[[socket.socket], None]) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # it went away again
            return
        except OSError as exc:  # no descriptor or memory is free; the socket stays readable, so do not spin on it
            log.warning("link_accept_failed", directory=str(self.directory), error=str(exc))
            self.pause()
            asyncio.get_running_loop().call_later(_ACCEPT_RETRY_S, self.accept, on_connection)
            return
        if self.peer_uid is not None and peer_uid(connection) != self.peer_uid:
            log.warning("link_foreign_peer", directory=str(self.directory), uid=peer_uid(connection))
            connection.close()
            return
        connection.setblocking(False)
        on_connection(connection)


async def opened(make: Callable[[], Link]) -> Link:
    """A link made or reopened by `make`, in a thread. Raises `OSError`."""
    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        # The thread goes on, and nobody else will hear of the socket that it opens.
        await asyncio.wait({making})
        if making.exception() is None:
            making.result().close()
        raise


def _shared_directory(path: Path) -> None:
    """Make a directory that sandboxes' user ids may traverse and not list."""
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(0o711)  # whatever the umask is


def listen(
    directory: Path, name: str = SOCKET_NAME, *, owner: int | None, backlog: int = _BACKLOG, passable: bool = False
) -> socket.socket:
    """Listen at a new socket in a directory, which both are given to `owner`, if any. Blocks. Raises `OSError`."""
    with contextlib.ExitStack() as stack:
        directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, directory_fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory_fd)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        undo = stack.enter_context(contextlib.ExitStack())
        undo.callback(listener.close)
        listener.bind(f"/proc/self/fd/{directory_fd}/{name}")
        _hand_over(directory_fd, name, owner, passable=passable)
        listener.listen(backlog)
        undo.pop_all()
        return listener


def _hand_over(directory_fd: int, name: str, owner: int | None, *, passable: bool) -> None:
    """Give socket and directory the modes and the owner they need; the directory last, so that none interferes."""
    socket_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        if not stat.S_ISSOCK(os.fstat(socket_fd).st_mode):
            msg = "what was bound in the run directory is no socket: something else writes there"
            raise OSError(msg)
        for fd, mode in (
            (socket_fd, 0o666 if owner is None else 0o600),
            (directory_fd, 0o711 if owner is None or passable else 0o700),
        ):
            # An O_PATH descriptor itself takes no fchmod; its /proc entry leads to the very same file.
            entry = Path(f"/proc/self/fd/{fd}")
            entry.chmod(mode)
            if owner is not None:
                os.chown(entry, owner, owner)
    finally:
        os.close(socket_fd)


def peer_uid(connection: socket.socket) -> int:
    """Who made the other end of a Unix socket, as this process' user namespace has it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    _, uid, _ = _PEER_CREDENTIALS.unpack(credentials)
    return int(uid)
