"""Process 1 of a shared sandbox: forks a supervisor for each session, under a user id of its own. It runs no calls itself.

Sessions share what this process has imported, and are kept apart by their user ids: whatever runs under one can be killed,
looked into and connected as by that one only. The user id after process 1's own is of the process that clears up after one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from signal import SIGKILL

from . import frames
from .children import have_own_user, reap
from .link import first_connection
from .privileges import act_for, become, go_first, limit
from .supervisor import Supervisor, _fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any, NoReturn

_TMP = "/tmp"  # noqa: S108
# Where sessions can leave files.
_SHARED_DIRECTORIES = (_TMP, "/dev/shm", "/dev/mqueue")  # noqa: S108
# Exit codes of the process that clears up after a session.
_CLEAN, _NOT_CLEAN, _NOT_ENDED = 0, 3, 4
_END_S = 5.0
_PAUSE_S = 0.0005


def run(path: str, control: socket) -> NoReturn:
    """Until STOP, or until nobody has listened at the socket `path` for too long. Does not return."""
    Host(path, control).run()


class Host(Supervisor):
    def __init__(self, path: str, control: socket) -> None:
        super().__init__(path, control)
        self._directory = path.rpartition("/")[0]
        self._keeper = os.getuid() + 1
        self._uids: dict[str, int] = {}  # of slots
        self._pids: dict[str, int] = {}  # of their supervisors, those that have not ended
        self._leaving: list[str] = []  # slots to be cleared, one at a time
        self._clearing = 0  # the process that clears the first of them
        self._ended: dict[int, int] = {}  # status of those that were collected on the way

    def _handle(self, frame: frames.Frame) -> None:
        if frame.kind == frames.PRELOAD:
            if not self._uids:  # what it may start is killed, with all there is
                self._preload(json.loads(frame.body))
        elif frame.kind == frames.ADD:
            self._add(**json.loads(frame.body))
        elif frame.kind == frames.REMOVE:
            self._remove(**json.loads(frame.body))
        elif frame.kind == frames.STOP:
            self._end()

    def _add(self, slot: str, uid: int, limits: dict[str, Any]) -> None:
        self._uids[slot] = uid
        try:
            pid = _fork(self._ended)
        except OSError:  # no room for it: whoever waits for its greeting has it removed
            return
        if pid:
            self._pids[slot] = pid
            return
        try:
            self._leave()
            _supervise(f"{self._directory}/{slot}/{self._path.rpartition('/')[2]}", uid, limits)
        finally:
            os._exit(1)

    def _remove(self, slot: str) -> None:
        if slot not in self._uids:  # it never was, so nothing is left of it
            self._removed(slot, clean=True)
            return
        if slot in self._pids:
            _kill_early(self._pids[slot])
        self._leaving.append(slot)
        self._clear()

    def _clear(self) -> None:
        """Begin with the next slot that is to be removed, unless one is under way."""
        if self._clearing or not self._leaving:
            return
        uid = self._uids[self._leaving[0]]
        try:
            pid = _fork(self._ended)
        except OSError:  # again when something has ended or is asked for
            return
        if pid:
            self._clearing = pid
            return
        code = _NOT_ENDED
        try:
            self._leave()
            act_for(uid, self._keeper)
            code = _end_all(uid)
        finally:
            os._exit(code)

    def _collect(self) -> None:
        """A supervisor that ended by itself is told by the end of its connection; what it leaves is cleared by REMOVE."""
        ended, self._ended = self._ended, {}
        reap(ended)
        self._pids = {slot: pid for slot, pid in self._pids.items() if pid not in ended}
        if self._clearing not in ended:
            return
        status = ended[self._clearing]
        self._clearing = 0
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) in (_CLEAN, _NOT_CLEAN):
            slot = self._leaving.pop(0)
            del self._uids[slot]
            self._pids.pop(slot, None)
            self._removed(slot, clean=os.WEXITSTATUS(status) == _CLEAN)
        self._clear()  # the next; or the same again, until whoever waits has had enough and ends us all

    def _removed(self, slot: str, *, clean: bool) -> None:
        self._send(frames.encode_json(frames.REMOVED, {"slot": slot, "clean": clean}))


def _supervise(path: str, uid: int, limits: dict[str, Any]) -> NoReturn:
    """In a fresh fork: be the supervisor of a session. Does not return."""
    limit(limits)
    become(uid)
    go_first()
    os.umask(0o077)
    os.setsid()
    home = f"{_TMP}/{os.urandom(8).hex()}"
    os.mkdir(home, 0o700)  # noqa: PTH102 - pathlib is large
    os.chdir(home)
    os.environ.update(HOME=home, TMPDIR=home)
    have_own_user()
    Supervisor(path, first_connection(path)).run()


def _kill_early(pid: int) -> None:
    """Kill the supervisor of a slot if it has not got to its own user id, by which it would be killed."""
    try:
        os.kill(pid, SIGKILL)
    except PermissionError:
        return


def _end_all(uid: int) -> int:
    """Kill whatever this process may, wait until it is gone, and remove the user's files. Returns an exit code."""
    with suppress(ProcessLookupError):  # all have ended
        os.kill(-1, SIGKILL)  # reaches all at once, and none forks with it pending
    wanted = str(uid).encode()
    left = [name for name in os.listdir("/proc") if name.isdecimal() and _runs(name, wanted)]  # noqa: PTH208
    deadline = time.monotonic() + _END_S
    while left:
        if time.monotonic() > deadline:
            return _NOT_ENDED
        time.sleep(_PAUSE_S)
        left = [name for name in left if _runs(name, wanted)]
    try:
        for directory in _SHARED_DIRECTORIES:
            _remove_files(directory, uid)
    except (OSError, RecursionError):
        return _NOT_CLEAN
    return _CLEAN


def _runs(pid: str, uid: bytes) -> bool:
    """Whether it is another process, of this user, that has not ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123
            fields = dict(line.partition(b":")[::2] for line in file)
    except OSError:  # it has gone just now
        return False
    ended = fields[b"State"].strip().startswith((b"Z", b"X"))
    return uid in fields[b"Uid"].split() and not ended and int(pid) != os.getpid()


def _remove_files(directory: str, uid: int) -> None:
    with os.scandir(directory) as entries:
        own = [entry for entry in entries if entry.stat(follow_symlinks=False).st_uid == uid]
    for entry in own:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)  # noqa: PTH108
