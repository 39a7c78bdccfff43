"""The client of many connections, against a server of a few lines: every call is counted, and what fails is told."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.load import crowd
from benchmarks.paced import paced
from benchmarks.wire import Wire


@contextmanager
def server(reply: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Answers each request with `reply`, in two pieces, or hangs up if that is empty; its port, and the requests that came."""
    seen: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        wbufsize = 0

        def handle(self) -> None:
            while line := self.rfile.readline():
                while self.rfile.readline().strip():
                    pass
                seen.append(line)
                if not reply:
                    return
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


def test_paced_clients_send_when_it_is_time_and_tell_each_status() -> None:
    with server(b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\n{}") as (port, seen):
        samples = paced(port, [b"GET /%d HTTP/1.1\r\nHost: it\r\n\r\n" % number for number in range(2)], 20, 0.5)
    due_s = sorted(sample.due_s for sample in samples)
    assert due_s == pytest.approx([0.05 * number for number in range(len(seen))])  # fewer where this machine stalls
    assert len(seen) >= 2
    assert seen[0].split()[1] != seen[1].split()[1]
    assert {sample.status for sample in samples} == {429}
    assert all(sample.took_s >= sample.answered_s > 0 for sample in samples)


def test_a_client_that_is_cut_off_connects_anew() -> None:
    with server(b"") as (port, seen):
        samples = paced(port, [b"GET / HTTP/1.0\r\n\r\n"], 20, 0.25)
    assert {sample.status for sample in samples} == {0}
    assert len(samples) == len(seen) >= 1


def test_headers_of_the_last_reply_are_at_hand() -> None:
    with server(GOOD) as (port, _):
        wire = Wire(port)
        try:
            assert wire.json("GET", "/")[1] == {"value": 1}
            assert (wire.header("x-other"), wire.header("x-none")) == ("1", "")
        finally:
            wire.close()
