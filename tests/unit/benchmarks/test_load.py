"""The client of many connections, against a server of a few lines: every call is counted, and what fails is told."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.load import crowd
from benchmarks.wire import Wire


@contextmanager
def server(reply: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Answers each request with `reply`, in two pieces; its port, and the requests that came."""
    seen: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        wbufsize = 0

        def handle(self) -> None:
            while line := self.rfile.readline():
                while self.rfile.readline().strip():
                    pass
                seen.append(line)
                self.wfile.write(reply[:20])
                self.wfile.write(reply[20:])

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = False  # `server_close` waits for them

    with Server(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield listening.server_address[1], seen
        finally:
            listening.shutdown()
            thread.join()


GOOD = b'HTTP/1.1 200 OK\r\nX-Other: 1\r\nContent-Length: 11\r\n\r\n{"value":1}'


def test_every_call_of_every_client_is_counted() -> None:
    with server(GOOD) as (port, seen):
        seen_by = crowd(port, [b"GET /%d HTTP/1.1\r\nHost: it\r\n\r\n" % number for number in range(5)], 0.2)
    assert len(seen_by.seconds) == len(seen) >= 5
    assert {request.split()[1] for request in seen} == {b"/%d" % number for number in range(5)}
    assert seen_by.rate > 0


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\n{}",
        b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"error":true}',
    ],
    ids=["refused", "raised"],
)
def test_a_call_that_fails_is_no_call(reply: bytes) -> None:
    with server(reply) as (port, _), pytest.raises(RuntimeError):
        crowd(port, [b"GET / HTTP/1.1\r\nHost: it\r\n\r\n"], 0.2)


def test_headers_of_the_last_reply_are_at_hand() -> None:
    with server(GOOD) as (port, _):
        wire = Wire(port)
        try:
            assert wire.json("GET", "/")[1] == {"value": 1}
            assert (wire.header("x-other"), wire.header("x-none")) == ("1", "")
        finally:
            wire.close()
