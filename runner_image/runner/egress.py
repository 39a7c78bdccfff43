"""Egress as the supervisor sees it: a listening socket for good, and a process behind it that comes and goes.

The supervisor itself has no threads and takes no connection, as it forks. It keeps the socket, so that the port stays the
same, nobody else in the sandbox can take it, and who connects while the process is started anew just waits.
"""

from __future__ import annotations

import os
import time
from _socket import AF_INET, SOCK_STREAM, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

NAME = "egress"  # of the proxy's socket, beside the link's own
_BACKLOG = 128
# A process that ends sooner than this after its start is not started anew before the next worker is.
_HASTY_S = 1.0


class Egress:
    def __init__(self, link: str) -> None:
        """`link`: the path of the link's socket. Raises OSError."""
        self._target = link.rpartition("/")[0] + "/" + NAME
        self._listener = socket(AF_INET, SOCK_STREAM)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(_BACKLOG)
        self._pid = 0
        self._started_at = 0.0

    def variables(self) -> dict[str, str]:
        """By which HTTP clients find it."""
        proxy = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        found = {"NO_PROXY": "localhost,127.0.0.1"}
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            found[name] = proxy
        return {**found, **{name.lower(): value for name, value in found.items()}}

    def start(self, prepare: Callable[[], None]) -> None:
        """Fork the process; `prepare` runs there first. Where no more processes are allowed, the next start does it."""
        self._started_at = time.monotonic()
        try:
            self._pid = os.fork()
        except OSError:
            self._pid = 0
            return
        if self._pid:
            return
        try:
            prepare()
            _forward(self._listener, self._target)
        finally:
            os._exit(1)

    def ended(self, pids: dict[int, int], prepare: Callable[[], None]) -> None:
        """Start it anew if it is among the processes that have ended."""
        if self._pid in pids and time.monotonic() - self._started_at >= _HASTY_S:
            self.start(prepare)

    def leave(self) -> None:
        """In a fresh worker: let go of what is not its own."""
        self._listener.close()


def _forward(listener: socket, target: str) -> None:
    # Imported here: only this process needs it.
    from socket import socket as Socket

    from .forward import forward

    forward(Socket(fileno=listener.detach()), target)
