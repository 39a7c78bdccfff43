"""Many clients in one process that costs little: each a keep-alive connection with one request under way."""

import contextlib
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


class Client:
    """One connection and the one request that it repeats. `began`: when it was last sent."""

    def __init__(self, port: int, request: bytes) -> None:
        self.request = request
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0
        self._received = b""

    def send(self) -> None:
        self.began = time.perf_counter()
        with contextlib.suppress(ConnectionError):  # `reply` tells
            self.socket.sendall(self.request)  # a few hundred bytes, which the kernel takes at once

    def reply(self) -> bytes | None:
        """Read what there is. Returns: the reply once it is whole; nothing at all where the connection ended instead."""
        try:
            data = self.socket.recv(_RECEIVE)
        except ConnectionError:
            data = b""
        if not data:
            return b""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        at = head.lower().index(b"content-length:") + 15
        if len(body) < int(head[at:].partition(b"\r\n")[0]):
            return None
        whole, self._received = self._received, b""
        return whole


def crowd(port: int, requests: Sequence[bytes], seconds: float) -> Crowd:
    """Let one client for each of `requests` repeat it for so many seconds. Raises RuntimeError: an answer is no success."""
    taken: list[float] = []
    with selectors.DefaultSelector() as selector:
        clients = [Client(port, request) for request in requests]
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
            client: Client = key.data
            reply = client.reply()
            if reply is None:
                continue
            if not reply.startswith(b"HTTP/1.1 200") or b'\r\n\r\n{"error":true' in reply:
                raise RuntimeError(reply[:500] or "the server closed the connection")
            now = time.perf_counter()
            taken.append(now - client.began)
            if now < until:
                client.send()
            else:
                waiting -= 1
