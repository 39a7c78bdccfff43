"""The worker: takes requests off its own connection, one at a time, and answers each with one reply."""

from __future__ import annotations

import errno
import gc
import os
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket
from fcntl import F_DUPFD_CLOEXEC, fcntl
from resource import RLIM_INFINITY, RLIMIT_CORE, RLIMIT_FSIZE, getrlimit, setrlimit
from time import monotonic, sleep

from . import frames
from .calls import Calls, Limits
from .capture import Capture
from .children import release_worker
from .link import FIRST_RETRY_S, LAST_RETRY_S, connect

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping, NoReturn

    from .place import Place
    from .stream import Stream

# The length field of a frame; the orchestrator keeps bodies far below.
_MAX_BODY_BYTES = 2**32 - 1
# A body this large is sent on its own, without being copied behind its header.
_LARGE_BYTES = 64 * 1024
# Most requests come in one piece of this.
_USUAL_BYTES = 4096
# Where our descriptors go: code that writes to or closes a low number by accident does not hit them.
_FIRST_DESCRIPTOR = 900


def work(path: str, config: Mapping[str, Any], place: Place, *, generation: int, supervisor: int) -> NoReturn:
    """Serve calls in a process that was just forked. `config` is CONFIG's body; the supervisor reads `place`. Does not return."""
    # What is here already is never collected: a collection would write to every page that is shared with the supervisor.
    gc.freeze()
    os.setsid()
    release_worker(supervisor)
    _limit_files(int(config["fsize_bytes"]))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if preload := sys.modules.get(__package__ + ".preload"):
        preload.reseed()
    else:
        # User code finds the `__main__` that it would find in an interpreter of its own, not our script.
        sys.modules["__main__"] = type(sys)("__main__")
    capture = Capture(int(config["max_output_bytes"]), aside)
    calls = Calls(capture, Limits.of(config), place, first=bool(config["first"]) and generation == 1)
    Worker(path, calls, capture, config, generation=generation, supervisor=supervisor).run()


def aside(descriptor: int) -> int:
    """The same open file under a number out of the way, not inherited by programs; the old number is closed."""
    try:
        moved = fcntl(descriptor, F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
    except OSError:  # RLIMIT_NOFILE is lower than that
        return descriptor
    os.close(descriptor)
    return moved


def _limit_files(fsize_bytes: int) -> None:
    # SIGXFSZ is ignored by every Python, so that a write past the limit fails with EFBIG.
    for resource, wanted in ((RLIMIT_FSIZE, fsize_bytes), (RLIMIT_CORE, 0)):
        hard = getrlimit(resource)[1]
        value = wanted if hard == RLIM_INFINITY else min(wanted, hard)
        setrlimit(resource, (value, value))


class Worker:
    """State of the session lives in this process; connections come and go."""

    def __init__(
        self,
        path: str,
        calls: Calls,
        capture: Capture,
        config: Mapping[str, Any],
        *,
        generation: int,
        supervisor: int,
    ) -> None:
        self._path = path
        self._calls = calls
        self._capture = capture
        self._max_streamed_bytes = int(config["max_reply_bytes"])
        self._generation = generation
        self._supervisor = supervisor
        self._pid = os.getpid()

    def run(self) -> NoReturn:
        retry_s = FIRST_RETRY_S
        while True:
            sock = self._connect()
            began = monotonic()
            try:
                self._serve(sock)
            except BaseException as exc:  # a signal handler of the user's may raise anywhere
                if os.getpid() != self._pid:
                    os._exit(1)  # a process that user code forked, and that came this far
                if isinstance(exc, OSError) and exc.errno in (errno.EBADF, errno.ENOTSOCK):
                    sock.detach()  # user code closed it, and the number may be that of a file of its own by now
            sock.close()
            # Not over and over: whose connection user code closed is not wanted back, and about to be ended.
            retry_s = FIRST_RETRY_S if monotonic() - began > LAST_RETRY_S else min(retry_s * 2, LAST_RETRY_S)
            sleep(retry_s)

    def _connect(self) -> socket:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                sock = connect(self._path)
                sock = socket(AF_UNIX, SOCK_STREAM, 0, aside(sock.detach()))
                members = {
                    "role": "worker",
                    "protocol": frames.PROTOCOL,
                    "generation": self._generation,
                    "pid": self._pid,
                }
                sock.sendall(frames.encode_json(frames.HELLO, members))
                return sock
            except OSError:
                if os.getppid() != self._supervisor:
                    os._exit(0)
                sleep(retry_s)
                retry_s = min(retry_s * 2, LAST_RETRY_S)

    def _serve(self, sock: socket) -> None:
        """Answer calls until the connection ends. Raises OSError, FrameError."""
        while True:
            frame = frames.read(sock, max_bytes=_MAX_BODY_BYTES, at_once=_USUAL_BYTES)
            if frame is None:
                return
            if frame.kind not in frames.REQUESTS:
                msg = f"a frame of kind {frame.kind} came where only requests come"
                raise frames.FrameError(msg)
            stream = self._stream(sock, frame.call_id) if frame.flags & frames.STREAM else None
            kind, body, extra = self._calls.answer(frame, stream)
            size = sum(map(len, extra)) if extra else 0
            header = frames.HEADER.pack(kind, b"\0\0\0", len(body), size, frame.call_id)
            if len(body) < _LARGE_BYTES:
                sock.sendall(header + body)
            else:
                sock.sendall(header)
                sock.sendall(body)
            while extra:
                sock.sendall(extra.pop(0))
            del frame, body, extra, stream

    def _stream(self, sock: socket, call_id: int) -> Stream:
        from .stream import Stream  # with threads, which few sessions need

        return Stream(sock, call_id, self._capture, self._max_streamed_bytes)
