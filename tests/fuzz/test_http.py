"""Bytes that are nearly HTTP, over sockets: never a 500, never a crash, and whoever comes next is served."""

import random
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import httpx
import pytest

from tests.fuzz.conftest import counted, defects, fuzz_seconds, is_long
from tests.servers import Server

_SECONDS = 8
_SILENCE_S = 0.4  # most of what is mutated never becomes whole; who leaves early is a case of its own
_KINDS = {b"200", b"400", b"401", b"404", b"422"}  # of replies, each of which is to be seen
_MOST = 20_000  # requests on the way to that, on a slow machine
_REPLY_S = 60.0
_AT_ONCE = 40  # connections, between two looks at whether the server is well
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ")
_TOKENS = (
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b"\xff",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"%",
    ),
    *(
        b"%00",
        b"%2f..%2f",
        b"%ff",
        b"//",
        b"?",
        b"#",
        b"*",
        b"HTTP/1.1",
        b"HTTP/2.0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ),
    *(b"Content-Length: 0\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n", b"0\r\n\r\n"),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"ffffffff",
    ),
    *(b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Content-Encoding: gzip\r\n", b"Host:\r\n", b"Range: bytes=0-\r\n"),
    *(b"Accept: text/event-stream\r\n", b"Accept: */*;q=\r\n", b"Prefer: respond-async\r\n", b"Cookie: a\r\n"),
    *(
        b"X-Session-ID: a.b.c\r\n",
        b"X-Request-ID: \x80\r\n",
        b"Authorization: Basic OjoK\r\n",
        b"Authorization: Bearer \r\n",
    ),
    *(b"null", b"NaN", b"1e999", b'"\\ud800"', b"[" * 200, b"{" * 200, b'{"a":1,"a":2}', b"\xef\xbb\xbf", b"-", b"0x1"),
)


@pytest.fixture
def seeds(fuzzed: Server) -> Iterator[list[bytes]]:
    """Requests as clients send them, good ones each."""
    token = fuzzed.key("raw")["api_id"]
    session = fuzzed.session("raw", ttl=3600)
    head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    call = f'{{"sessionid":"{session.id}","namepath":"math.sqrt","args":[9.0],"timeout":"1000"}}'
    bodies = [
        ("POST /environment/python/setup", '{"dependencies":["tiny"],"ttl":3,"env":{"A":"b"}}'),
        ("POST /environment/python/setup", '{"version":"3","resources":{"memory_mb":128,"cpus":0.5}}'),
        ("POST /environment/python/call", call),
        ("POST /environment/python/call", call.replace("math.sqrt", "no.such")),
        ("DELETE /session", '{"sessionid":"a.b.c"}'),
    ]
    made = [f"{line} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}" for line, body in bodies]
    for line, body in bodies:
        chunks = f"5\r\n{body[:5]}\r\n{len(body) - 5:x}\r\n{body[5:]}\r\n0\r\n\r\n"
        made.append(f"{line} HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n{chunks}")
    for path in ("/environment/python", "/environment/python/x", "/session?all=false", "/healthz", "/docs", "/"):
        made.append(f"GET {path} HTTP/1.1\r\n{head}\r\n")
    yield [request.encode() for request in made]
    session.close()


def test_a_mutated_request_gets_a_refusal_and_the_next_is_served(fuzzed: Server, seeds: list[bytes]) -> None:
    chance = random.Random(None if is_long() else 1)
    until = time.monotonic() + fuzz_seconds(_SECONDS)
    sent = 0
    answered: Counter[bytes] = Counter()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while time.monotonic() < until or not (answered.keys() >= _KINDS or sent > _MOST):
            tried = [_mutated(chance, seeds) for _ in range(_AT_ONCE)]
            for request, statuses in zip(
                tried, pool.map(partial(_exchange, fuzzed, patience_s=_SILENCE_S), tried), strict=True
            ):
                assert b"500" not in statuses, (request, defects(fuzzed))
                answered.update(statuses)
            sent += len(tried)
            assert fuzzed.process.poll() is None, tried
            assert httpx.get(f"{fuzzed.url}/healthz", timeout=_REPLY_S).status_code == 200, tried
    print(f"raw requests: {sent}, replies by status: {dict(sorted(answered.items()))}")
    assert answered.keys() >= _KINDS
    assert not any(status == "500" for _, _, status in counted(fuzzed))
    assert not defects(fuzzed)


@pytest.mark.parametrize("number", range(5), ids=["built", "limited", "called", "unknown", "closed"])
def test_a_request_may_come_in_any_two_pieces(fuzzed: Server, seeds: list[bytes], number: int) -> None:
    request = seeds[number + 5]  # those in chunks
    body = request.index(b"\r\n\r\n")
    whole = _exchange(fuzzed, request)
    for cut in (5, body - 1, body + 1, body + 3, body + 5, body + 8, len(request) - 2):
        assert _exchange(fuzzed, request[:cut], request[cut:]) == whole, cut


def _mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    request = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(request) + 1)
        end = min(len(request), at + chance.choice((0, 1, 2, 8, 64)))
        match chance.randrange(6):
            case 0:
                request[at:end] = chance.choice(_TOKENS)
            case 1:
                request[at:end] = chance.randbytes(chance.choice((1, 2, 16)))
            case 2:
                del request[at:end]
            case 3:
                request[at:at] = request[at:end] * chance.choice((2, 50))
            case 4:
                line_ends = [found.end() for found in re.finditer(rb"\r\n", request)] or [0]
                place = chance.choice(line_ends)
                request[place:place] = chance.choice(_TOKENS)
            case _:
                other = chance.choice(seeds)
                request[at:] = other[chance.randrange(len(other)) :]
    return bytes(request)


def _exchange(server: Server, *pieces: bytes, patience_s: float = _REPLY_S) -> list[bytes]:
    """The statuses that come back: until the first reply is whole, the server closes, or it waits for more."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    received = bytearray()
    with socket.create_connection((host, int(port)), timeout=patience_s) as connection, suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
            if piece is not pieces[-1]:
                time.sleep(0.005)  # so that it arrives on its own
        while not _is_whole(received) and (chunk := connection.recv(65536)):
            received += chunk
    return _STATUS.findall(received)


def _is_whole(received: bytearray) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: ([0-9]+)", head.lower())
    return bool(end) and length is not None and len(body) >= int(length[1])
