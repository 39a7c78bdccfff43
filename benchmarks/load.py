"""Many clients in one process that costs little: each a keep-alive connection with one request under way."""

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

_RECEIVE = 1 << 16


@dataclass(frozen=True, slots=True)
class Crowd:
    """What a crowd of clients saw: calls per second of all, and the seconds of each call."""

    rate: float
    seconds: list[float]


class _Client:
    """One connection and the one request that it repeats."""

    def __init__(self, port: int, request: bytes) -> None:
        self.request = request
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self._received = b""

    def send(self) -> None:
        self.began = time.perf_counter()
        self.socket.sendall(self.request)  # a few hundred bytes, which the kernel takes at once

    def answered(self) -> bool:
        """Read what there is; true if the reply is whole. Raises RuntimeError: it is no success."""
        data = self.socket.recv(_RECEIVE)
        if not data:
            msg = "the server closed the connection"
            raise RuntimeError(msg)
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return False
        at = head.lower().index(b"content-length:") + 15
        if len(body) < int(head[at:].partition(b"\r\n")[0]):
            return False
        if not head.startswith(b"HTTP/1.1 200") or body.startswith(b'{"error":true'):
            raise RuntimeError(self._received[:500])
        self._received = b""
        return True


def crowd(port: int, requests: Sequence[bytes], seconds: float) -> Crowd:
    """Let one client for each of `requests` repeat it for so many seconds."""
    taken: list[float] = []
    with selectors.DefaultSelector() as selector:
        clients = [_Client(port, request) for request in requests]
        try:
            for client in clients:
                selector.register(client.socket, selectors.EVENT_READ, client)
            began = time.perf_counter()
            for client in clients:
                client.send()
            _repeat(selector, taken, began + seconds)
            return Crowd(len(taken) / (time.perf_counter() - began), taken)
        finally:
            for client in clients:
                client.socket.close()


def _repeat(selector: selectors.BaseSelector, taken: list[float], until: float) -> None:
    """Ask again as soon as there is an answer; after `until` wait for what is under way."""
    waiting = len(selector.get_map())
    while waiting:
        ready = selector.select(30)
        if not ready:
            msg = "no answer for 30 s"
            raise TimeoutError(msg)
        for key, _ in ready:
            client: _Client = key.data
            if not client.answered():
                continue
            now = time.perf_counter()
            taken.append(now - client.began)
            if now < until:
                client.send()
            else:
                waiting -= 1
