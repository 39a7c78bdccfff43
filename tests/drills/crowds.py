"""Many clients at once: threads that begin together, and connections made by hand that no HTTP library would make."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import pytest

from tests.servers import Server, Session

T = TypeVar("T")

START_S = 120.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on close, a reset at once


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """`work(0)` to `work(count - 1)`, each in a thread, all begun at the same moment; their results in that order."""
    start = threading.Barrier(count)

    def run(number: int) -> T:
        start.wait(START_S)
        return work(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def until(condition: Callable[[], T], what: str, *, within_s: float = 120.0) -> T:
    """Look until the condition holds (is true), and return what it was."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:g} s: {what}")
        time.sleep(0.05)
    return found


def call_request(session: Session, namepath: object, *args: object, **members: object) -> bytes:
    """A call as the bytes that go over the wire."""
    body = {"sessionid": session.id, "namepath": namepath, "args": list(args), **members}
    return request("POST", "/environment/python/call", str(session.client.headers["Authorization"]), body)


def request(method: str, path: str, authorization: str, body: object) -> bytes:
    """One request, after whose reply the server closes the connection."""
    content = json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Authorization: {authorization}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


@contextmanager
def connected(server: Server, *, receive_bytes: int | None = None) -> Iterator[socket.socket]:
    """A bare connection. `receive_bytes`: how little this end takes in before it is read from."""
    url = urlsplit(server.url)
    with socket.socket() as connection:
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(START_S)
        connection.connect((url.hostname, url.port))
        yield connection


def leave(server: Server, sent: bytes, *, after_s: float = 0.0) -> None:
    """Send this, and go away with a reset instead of waiting for the reply."""
    with connected(server) as connection:
        connection.sendall(sent)
        time.sleep(after_s)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def metric(server: Server, name: str) -> float:
    """One of the server's metrics, by its name and labels as /metrics writes them; 0 before its first event."""
    with server.bearing() as client:
        lines = client.get("/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)
