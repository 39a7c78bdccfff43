"""Attacks on the HTTP edge of a real server, over raw sockets: whoever has the network, and no key or one key."""

import json
import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

import pytest

from tests.servers import Server, Session, running

CALL = "/environment/python/call"
SETUP = "/environment/python/setup"
HOST = b"Host: 127.0.0.1\r\n"
# Must not be answered where it hides in another request.
HIDDEN = b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-Request-ID: hidden\r\n\r\n"
MAX_HEAD = 8192
PATIENCE_S = 60.0  # for what the server is to say
QUIET_S = 1.0  # after that: then a server that keeps the connection open has said all


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("process", KODOU_MAX_HEAD_BYTES=str(MAX_HEAD)) as found:
        yield found


@pytest.fixture(scope="module")
def session(server: Server) -> Iterator[Session]:
    shared = server.session("edge")
    yield shared
    shared.close()


def port(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def exchange(server: Server, *pieces: bytes, replies: int = 1) -> bytes:
    """Send, and read until the server closes or, after so many replies, has no more to say."""
    received = b""
    with socket.create_connection(("127.0.0.1", port(server))) as sock:
        sock.settimeout(PATIENCE_S)
        try:
            for piece in pieces:
                sock.sendall(piece)
            while chunk := sock.recv(65536):
                received += chunk
                if len(statuses(received)) >= replies:
                    sock.settimeout(QUIET_S)
        except (TimeoutError, ConnectionError):
            pass
    return received


def statuses(reply: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5][0-9][0-9])", reply)]


@pytest.fixture(scope="module")
def shown(server: Server) -> bytes:
    return f"Authorization: Bearer {server.key('edge')['api_id']}\r\n".encode()


def post(headers: bytes, body: bytes = b"") -> bytes:
    return f"POST {CALL} HTTP/1.1\r\n".encode() + HOST + headers + b"\r\n" + body


# --- a request hidden in another ---

CHUNKED = b"2\r\n{}\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", CHUNKED),
        (b"Content-Length: 2\r\nContent-Length: 3\r\n", b"{}"),
        (b"Content-Length: 2\r\nContent-Length: 2\r\n", b"{}"),
        (b"Content-Length: 2, 2\r\n", b"{}"),
        (b"Content-Length: +2\r\n", b"{}"),
        (b"Content-Length: 0x2\r\n", b"{}"),
        (b"Content-Length: 99999999999999999999999\r\n", b"{}"),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", CHUNKED),
        (b"Transfer-Encoding: chunked, identity\r\n", CHUNKED),
        (b"Transfer-Encoding: identity\r\n", CHUNKED),
        (b"Transfer-Encoding: xchunked\r\n", CHUNKED),
        (b"Transfer-Encoding: \x0bchunked\r\n", CHUNKED),
        (b"Transfer-Encoding : chunked\r\n", CHUNKED),
        (b"Transfer-Encoding:\r\n chunked\r\n", CHUNKED),
        (b"Transfer-Encoding: chunked\r\n", b"2\n{}\n0\n\n"),
        (b"Transfer-Encoding: chunked\r\n", b"0x2\r\n{}\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"2 \r\n{}\r\n0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"10000000000000002\r\n{}\r\n0\r\n\r\n"),
        (b"X-A: a\x00b\r\n", b""),
        (b"X-A: a\rb\r\n", b""),
        (b"X-A: 1\r\n 2\r\n", b""),
        (b"X A: 1\r\n", b""),
        (b": 1\r\n", b""),
    ],
    ids=range(24),
)
def test_a_request_that_readers_read_differently_is_refused_and_the_connection_closed(
    server: Server, shown: bytes, headers: bytes, body: bytes
) -> None:
    reply = exchange(server, post(shown + headers, body + HIDDEN))
    assert statuses(reply) == [400]
    assert b"hidden" not in reply
    assert b"connection: close" in reply


@pytest.mark.parametrize(
    "start",
    [b"GET http://127.0.0.1/session HTTP/1.1", b"CONNECT 127.0.0.1:80 HTTP/1.1", b"OPTIONS * HTTP/1.1",
     b"GET session HTTP/1.1", b"GET /healthz", b"GET /healthz HTTP/1.2", b"GET /h\x00 HTTP/1.1", b"get /healthz HTTP/1.1",
     b"PRI * HTTP/2.0", b"GET /healthz HTTP/2.0", b"GET /healthz HTTP/0.9", b"GET /healthz#top HTTP/1.1"],
    ids=range(12),
)  # fmt: skip
def test_only_http_1_and_paths_are_asked_for(server: Server, shown: bytes, start: bytes) -> None:
    assert statuses(exchange(server, start + b"\r\n" + (HOST + shown if b"HTTP" in start else b"") + b"\r\n")) == [400]


def test_a_slash_that_is_written_as_another_character_separates_nothing(server: Server, shown: bytes) -> None:
    """A proxy that lets only some paths through would see one segment, and we two."""
    last = HOST + shown + b"Connection: close\r\n\r\n"
    assert statuses(exchange(server, b"GET /environment/python HTTP/1.1\r\n" + last)) == [200]
    assert statuses(exchange(server, b"GET /environment/%70ython HTTP/1.1\r\n" + last)) == [200]
    assert statuses(exchange(server, b"GET /environment%2Fpython HTTP/1.1\r\n" + last)) == [404]
    assert statuses(exchange(server, b"GET /environment%2fpython HTTP/1.1\r\n" + last)) == [404]


@pytest.mark.parametrize("coding", [b"gzip, chunked", b"deflate, chunked"])
def test_a_coding_that_was_not_undone_is_refused(server: Server, shown: bytes, coding: bytes) -> None:
    assert statuses(exchange(server, post(shown + b"Transfer-Encoding: " + coding + b"\r\n", CHUNKED))) == [400]


def test_what_comes_after_a_body_is_no_header(server: Server, shown: bytes) -> None:
    chunks = b"2\r\n{}\r\n0\r\n" + shown + b"X-Session-ID: x\r\n\r\n"
    assert statuses(exchange(server, post(b"Transfer-Encoding: chunked\r\n", chunks))) == [401]


@pytest.mark.parametrize("name", [b"Authorization", b"X-Session-ID", b"Host", b"Content-Encoding", b"Content-Type"])
def test_a_header_that_counts_is_there_once(server: Server, shown: bytes, name: bytes) -> None:
    twice = name + b": a\r\n" + name + b": b\r\n"
    reply = exchange(
        server, post((b"" if name == b"Authorization" else shown) + twice + b"Content-Length: 2\r\n", b"{}")
    )
    assert statuses(reply) == [400]
    assert b" times" in reply


def test_an_upgrade_is_not_made_and_the_request_is_read_whole(server: Server, session: Session, shown: bytes) -> None:
    body = json.dumps({"sessionid": session.id, "namepath": "math.sqrt", "args": [16]}).encode()
    asked = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
    reply = exchange(server, post(shown + asked + b"Content-Length: %d\r\n" % len(body), body), HIDDEN, replies=2)
    assert statuses(reply) == [200, 200]  # what follows is the next request, in both readings
    assert b'"value": 4.0' in reply or b'"value":4.0' in reply


def test_a_body_that_nobody_wanted_is_no_request(server: Server) -> None:
    reply = exchange(server, post(b"Content-Length: %d\r\n" % len(HIDDEN), HIDDEN))
    assert statuses(reply) == [401]
    assert b"hidden" not in reply


# --- sizes ---


@pytest.mark.parametrize(
    "pieces",
    [
        [b"GET /" + b"a" * 2 * MAX_HEAD + b" HTTP/1.1\r\n" + HOST + b"\r\n"],
        [b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: " + b"a" * 2 * MAX_HEAD + b"\r\n\r\n"],
        [b"GET /healthz HTTP/1.1\r\n" + HOST, *[b"X-A: a\r\n" * 500] * 20],
        [b"GET /healthz HTTP/1.1\r\n" + HOST + b"X-A: ", *[b"a" * 4096] * 20],
        [b"GET /healthz HTTP/1.1\r\n" + HOST, *[b"X" * 4096] * 20],
        [post(b"Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n"), *[b"X-A: a\r\n" * 500] * 20],
        [post(b"Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\nX-A: "), *[b"a" * 4096] * 20],
        [post(b"Transfer-Encoding: chunked\r\n", b"2;"), *[b"a" * 4096] * 20],
    ],
    ids=["line", "header", "headers", "endless header", "endless name", "trailers", "endless trailer", "extension"],
)
def test_heads_and_trailers_are_bounded_in_size(server: Server, pieces: list[bytes]) -> None:
    reply = exchange(server, *pieces)
    # Nothing, where the rest that was on its way made the system drop what had been said.
    assert not reply or statuses(reply)[-1] in (401, 431)
    with socket.create_connection(("127.0.0.1", port(server))) as sock, pytest.raises(OSError):  # noqa: PT012
        sock.settimeout(5)
        for _ in range(10_000):
            sock.sendall(pieces[0] + b"X-A: a\r\n" * 100)
            for piece in pieces[1:]:
                sock.sendall(piece)


# --- whom it is for ---


@pytest.mark.parametrize(
    ("host", "status"),
    [(b"evil.example", 421), (b"evil.example:8000", 421), (b"127.0.0.1.evil.example", 421), (b"localhost.evil.example", 421),
     (b"evil/@127.0.0.1", 400), (b"a b", 400), (b"", 400), (b"127.0.0.1", 200), (b"localhost:1", 200), (b"[::1]:80", 200),
     (b"LOCALHOST", 200), (b"kodou.localhost", 200)],
)  # fmt: skip
def test_another_site_s_name_that_points_here_is_not_answered(server: Server, host: bytes, status: int) -> None:
    assert statuses(exchange(server, b"GET /metrics HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")) == [
        status
    ]


def test_no_redirect_goes_where_the_request_says(server: Server, shown: bytes) -> None:
    for path in (b"/", b"/session/", b"//evil.example/%2e%2e"):
        reply = exchange(
            server, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + shown + b"\r\n"
        )
        location = re.search(rb"(?i)location: (.*)\r\n", reply)
        assert location is None or location[1] == b"docs"


SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}


def test_every_reply_carries_the_security_headers_and_none_opens_the_server_to_other_origins(
    server: Server, session: Session
) -> None:
    client = session.client
    origin = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    replies = [
        session.post("math.sqrt", 4),
        session.post("math.sqrt", "four"),
        session.post("nosuchmodule.f"),
        client.get("/session", headers=origin),
        client.get("/environment/python"),
        client.get("/nothing"),
        client.options("/session", headers=origin),
        client.post(SETUP, content=b"{"),
        client.post(SETUP, content=b" " * 2_000_000),
        server.bearing().get("/session"),
        *(client.get(path) for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/", "/docs")),
        client.get("/docs/assets/init.js"),
    ]
    for reply in replies:
        assert reply.headers.items() >= SECURITY_HEADERS.items(), (reply.request.url, reply.headers)
        assert not [name for name in reply.headers if name.startswith("access-control")]
        policy = reply.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        if reply.request.url.path == "/docs":
            assert "script-src" not in policy
            assert "unsafe" not in policy.split("style-src")[0]  # what scripts fall back to
            assert "<script>" not in reply.text
        else:
            assert policy == "default-src 'none'; frame-ancestors 'none'"
    raw = exchange(server, b"nonsense\r\n\r\n").lower()
    for name, value in SECURITY_HEADERS.items():
        assert f"{name}: {value}".lower().encode() in raw


def test_basic_credentials_that_a_browser_remembers_are_no_use_to_other_sites(server: Server) -> None:
    key = server.key("edge")
    headers = {"Content-Type": "text/plain", "Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    reply = server.bearing().post(SETUP, content=b"{}", headers=headers, auth=(key["key"], key["secret"]))
    assert (reply.status_code, reply.json()["code"]) == (403, "forbidden")


# --- signing keys ---


def test_a_retired_signing_key_ends_its_tokens_in_a_running_server_and_new_ones_work() -> None:
    with running("process") as server:
        session = server.session("ada")
        assert session.value("math.sqrt", 4) == 2.0
        server.kodou("keys", "rotate")
        assert session.value("math.sqrt", 4) == 2.0
        later = server.session("ada")
        server.kodou("keys", "retire", "session-00000001")
        assert later.value("math.sqrt", 9) == 3.0  # so the server has looked, and has forgotten what it had verified
        gone = session.post("math.sqrt", 4)
        assert (gone.status_code, gone.json()["code"]) == (404, "session_not_found")
        again = server.key("bob")["api_id"]
        server.kodou("keys", "retire", "api-00000001")
        assert later.post("math.sqrt", 4).status_code == 401
        assert server.bearing(again).get("/session").status_code == 200


# --- what the log holds ---


def test_no_token_secret_or_query_is_ever_logged(server: Server) -> None:
    key = server.key("ada")
    session = server.session("ada", env={"PASSWORD": "env-s3cret"})
    client, nobody = session.client, server.bearing()
    session.call("print", "out-s3cret")
    client.post(f"{CALL}?jwt={session.id}&sig=sig-s3cret", json={"namepath": "math.pi"})
    client.get(f"/session?jwt={key['api_id']}", headers={"X-Session-ID": session.id})
    client.get(f"/{'x' * 300}?sig=sig-s3cret")
    nobody.get("/session", headers={"Authorization": "Bearer wrong-s3cret.a.b"})
    nobody.get("/session", auth=(key["key"], key["secret"]))
    nobody.get("/session", auth=(key["key"], "basic-s3cret"))
    exchange(server, b"GET /\xffs3cret HTTP/1.1\r\nAuthorization: Bearer raw-s3cret\r\n\r\n")
    exchange(server, post(b'X-Request-ID: {"level": "forged-s3cret\r\n'))
    session.call("os._exit", 1)
    client.post(CALL, json={"sessionid": session.id + "x", "namepath": "math.pi", "args": ["arg-s3cret"]})
    session.close()
    log = server.log.read_text()
    secrets = [key["api_id"], key["secret"], session.id, key["api_id"].split(".")[2], session.id.split(".")[2]]
    basic = b64encode(f"{key['key']}:{key['secret']}".encode()).decode()
    assert [found for found in (*secrets, basic, "s3cret") if found in log] == []
    assert '"event": "request"' in log
    for line in log.splitlines():
        if line.startswith("{"):
            json.loads(line)


# --- crowds ---


def test_a_key_over_its_rate_or_its_places_gets_429_at_once_and_another_key_is_served() -> None:
    with running(
        "process", KODOU_REQUESTS_PER_S="0.5", KODOU_BURST_REQUESTS="100", KODOU_MAX_REQUESTS_PER_KEY="3"
    ) as server:
        ada, bob = server.session("ada"), server.session("bob")

        seen = threading.Event()

        def hold() -> None:
            while not seen.is_set():
                if ada.post("time.sleep", 2).status_code == 429:  # a request below was there first
                    time.sleep(0.3)

        threads = [threading.Thread(target=hold) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(60):  # until all three have come; fewer than the burst
                if (reply := ada.client.get("/session")).status_code != 200:
                    break
                time.sleep(0.3)
            assert (reply.status_code, reply.json()["code"]) == (429, "rate_limited")
            assert "under way" in reply.json()["detail"]
            assert bob.value("math.sqrt", 4) == 2.0
        finally:
            seen.set()
            for thread in threads:
                thread.join()
        # Whatever else this machine does, faster than the rate.
        replies = (ada.client.get("/session") for _ in range(1000))
        late = next(reply for reply in replies if reply.status_code == 429)
        assert "a second" in late.json()["detail"]
        assert int(late.headers["retry-after"]) >= 1
        assert bob.value("math.sqrt", 9) == 3.0


def test_two_hundred_half_open_connections_and_slow_readers_do_not_keep_others_from_their_calls() -> None:
    with running("process", KODOU_MAX_CONNECTIONS="100", KODOU_HEADER_TIMEOUT_S="600") as server, ExitStack() as stack:
        session = server.session("ada")
        reader = server.session("reader")
        before = latencies(session)
        for number in range(200):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port(server))))
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "[: number % 40])
        body = json.dumps({"sessionid": reader.id, "namepath": ["builtins", "str", "zfill"], "args": ["x", 4_000_000]})
        token = server.key("reader")["api_id"]
        for _ in range(8):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port(server))))
            head = f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n"
            sock.sendall(post(head.encode(), body.encode()))
        during = latencies(session)
        for name, found in (("before", before), ("during", during)):
            print(f"{name}: median {median(found) * 1000:.1f} ms, worst {max(found) * 1000:.1f} ms")
        assert max(during) < 200  # each was answered, and none waited for a slow one's deadline
        # A new client, not only one whose connection stands already.
        assert server.bearing(token).get("/session").status_code == 200


def latencies(session: Session) -> list[float]:
    found = []
    for _ in range(50):
        began = time.perf_counter()
        assert session.value("math.sqrt", 4) == 2.0
        found.append(time.perf_counter() - began)
    return found
