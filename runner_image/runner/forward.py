"""The way out of a sandbox with egress: a port of its own loopback that leads to the egress proxy's Unix socket.

HTTP clients know proxies by host and port only, and the sandbox has no network; so a process passes bytes on between
the two. One process without threads: what it takes counts towards the sandbox's limits.
"""

import select
import socket
from contextlib import suppress
from typing import Dict, List, NoReturn, Optional

_CHUNK_BYTES = 65_536
_MOST = 256  # connections


def forward(listener: socket.socket, target: str) -> NoReturn:
    """Pass on each connection to `listener` to the Unix socket at the path `target`. Does not return."""
    listener.setblocking(False)
    connections: List[Connection] = []
    while True:
        events: Dict[int, int] = {}
        if len(connections) < _MOST:
            events[listener.fileno()] = select.POLLIN
        for connection in connections:
            connection.wants(events)
        poll = select.poll()
        for descriptor, wanted in events.items():
            poll.register(descriptor, wanted)
        ready = {descriptor for descriptor, _ in poll.poll()}
        for connection in connections:
            connection.move(ready)
        connections = [connection for connection in connections if not connection.closed]
        if listener.fileno() in ready:
            accepted = _accept(listener, target)
            if accepted is not None:
                connections.append(accepted)


def _accept(listener: socket.socket, target: str) -> "Optional[Connection]":
    try:
        near, _ = listener.accept()
    except OSError:  # it went away again
        return None
    far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        far.connect(target)
    except OSError:  # closing the client tells it
        near.close()
        far.close()
        return None
    return Connection(near, far)


class Connection:
    """Two sockets whose bytes go over to each other; closed when both directions have ended, or either has failed."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        for sock in (near, far):
            sock.setblocking(False)
        self._directions = (_Direction(near, far), _Direction(far, near))
        self.closed = False

    def wants(self, events: Dict[int, int]) -> None:
        for direction in self._directions:
            direction.wants(events)

    def move(self, ready: "set[int]") -> None:
        try:
            for direction in self._directions:
                direction.move(ready)
        except OSError:
            self._close()
            return
        if all(direction.over for direction in self._directions):
            self._close()

    def _close(self) -> None:
        self.closed = True
        for direction in self._directions:
            direction.source.close()


class _Direction:
    """Holds one chunk at most: it reads no more before that is written."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.over = False
        self._sink = sink
        self._held = b""

    def wants(self, events: Dict[int, int]) -> None:
        if self._held:
            events[self._sink.fileno()] = events.get(self._sink.fileno(), 0) | select.POLLOUT
        elif not self.over:
            events[self.source.fileno()] = events.get(self.source.fileno(), 0) | select.POLLIN

    def move(self, ready: "set[int]") -> None:
        """Raises `OSError`: one of the ends has failed."""
        if not self._held and not self.over and self.source.fileno() in ready:
            with suppress(BlockingIOError):
                self._held = self.source.recv(_CHUNK_BYTES)
                if not self._held:
                    self.over = True
                    self._sink.shutdown(socket.SHUT_WR)
        if self._held:
            with suppress(BlockingIOError):
                self._held = self._held[self._sink.send(self._held) :]
