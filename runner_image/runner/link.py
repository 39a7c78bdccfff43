"""The way to the orchestrator: connecting to its Unix socket, and the supervisor's greeting.

Imports little, as `frames` does: this is all that runs before the greeting.
"""

from __future__ import annotations

import os
import sys
import time
from _socket import AF_UNIX, SOCK_STREAM, socket

from . import __version__, frames

# What sun_path holds, without the NUL at its end (unix(7)).
_MAX_PATH_BYTES = 107
# Between two attempts: at first, and at last.
FIRST_RETRY_S = 0.01
LAST_RETRY_S = 0.2
# Without a connection the runner ends after this long, until CONFIG says otherwise.
ORPHAN_S = 60.0


def connect(path: str) -> socket:
    """A blocking connection, not inherited by programs that are started. Raises OSError."""
    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        # Not blocking: a listener whose queue is full is tried again, not waited for.
        sock.setblocking(False)
        if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
            sock.connect(path)
        else:
            _connect_far(sock, path)
        sock.setblocking(True)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_far(sock: socket, path: str) -> None:
    """Through the directory's descriptor, for a path that is longer than an address may be."""
    directory, _, name = path.rpartition("/")
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{descriptor}/{name}")
    finally:
        os.close(descriptor)


def connect_control(path: str) -> socket:
    """A control connection, greeted. Raises OSError."""
    sock = connect(path)
    # Written out, because `json` takes longer to import than all before this.
    python = ".".join(map(str, sys.version_info[:3]))
    hello = (
        f'{{"role": "supervisor", "protocol": {frames.PROTOCOL}, "runner": "{__version__}", '
        f'"python": "{python}", "pid": {os.getpid()}}}'
    )
    try:
        sock.sendall(frames.encode(frames.HELLO, hello.encode()))
    except OSError:
        sock.close()
        raise
    return sock


def first_connection(path: str) -> socket:
    """The first control connection, greeted. Ends the process if nobody listens for `ORPHAN_S`."""
    deadline = time.monotonic() + ORPHAN_S
    retry_s = FIRST_RETRY_S
    while True:
        try:
            return connect_control(path)
        except OSError as exc:
            if time.monotonic() >= deadline:
                msg = f"nobody listens at {path}: {exc}"
                raise SystemExit(msg) from None
        time.sleep(retry_s)
        retry_s = min(retry_s * 2, LAST_RETRY_S)
