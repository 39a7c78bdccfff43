"""Many connections from one process, each sending at times set beforehand: what a server does under load, not its clients.

A request's time counts from when it was due: a server that stalls is charged for what could not be sent meanwhile.
"""

import contextlib
import heapq
import selectors
import socket
import time
from dataclasses import dataclass, field
from typing import NamedTuple

_MOST_BYTES = 1 << 20
_LAST_S = 30.0  # for replies that are still missing in the end


class Sample(NamedTuple):
    due_s: float  # since the load began
    took_s: float  # from then on
    answered_s: float  # from when it was sent, which is later where the clients themselves cannot keep up
    status: int  # 0: the connection ended instead of a reply


@dataclass(slots=True)
class _Client:
    request: bytes
    connection: socket.socket
    due_s: float
    sent_s: float = 0.0
    received: bytearray = field(default_factory=bytearray)


def paced(port: int, requests: list[bytes], per_s: float, duration_s: float) -> list[Sample]:
    """Send `requests` over and over, one connection each, together `per_s` a second; infinity: as fast as replies come."""
    every_s = len(requests) / per_s
    began = time.perf_counter()
    clients = [_Client(request, _connect(port), i * every_s / len(requests)) for i, request in enumerate(requests)]
    selector = selectors.DefaultSelector()
    idle: list[tuple[float, int]] = []  # a heap: when due, and who
    for i, client in enumerate(clients):
        selector.register(client.connection, selectors.EVENT_READ, i)
        idle.append((client.due_s, i))
    samples: list[Sample] = []
    try:
        while True:
            now = time.perf_counter() - began
            while idle and idle[0][0] <= now < duration_s:
                client = clients[heapq.heappop(idle)[1]]
                client.sent_s = time.perf_counter() - began
                _send(client)
            busy = len(idle) < len(clients)
            if now >= duration_s and (not busy or now >= duration_s + _LAST_S):
                return samples
            until = idle[0][0] if idle and now < duration_s else duration_s + _LAST_S
            for key, _ in selector.select(max(0.0, min(until - now, 1.0))):
                client = clients[key.data]
                status = _receive(client)
                if status is None:
                    continue
                ended = time.perf_counter() - began
                samples.append(Sample(client.due_s, ended - client.due_s, ended - client.sent_s, status))
                if not status:
                    selector.unregister(client.connection)
                    client.connection.close()
                    client.connection = _connect(port)
                    selector.register(client.connection, selectors.EVENT_READ, key.data)
                client.due_s = client.due_s + every_s if every_s else ended
                heapq.heappush(idle, (client.due_s, key.data))
    finally:
        selector.close()
        for client in clients:
            client.connection.close()


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _send(client: _Client) -> None:
    client.received.clear()
    with contextlib.suppress(OSError):  # the reading end tells
        client.connection.sendall(client.request)


def _receive(client: _Client) -> int | None:
    """The reply's status once it is whole; 0 where the connection ended."""
    try:
        data = client.connection.recv(_MOST_BYTES)
    except OSError:
        data = b""
    if not data:
        return 0
    received = client.received
    received += data
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    at = received.lower().find(b"content-length:", 0, end) + 15
    length = int(received[at : received.find(b"\r\n", at)])
    return int(received[9:12]) if len(received) >= end + 4 + length else None
