"""Heads of proxy requests, from whoever: understood exactly, or rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.egress.heads import Rejected, parsed


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, *headers]).encode()


@pytest.mark.parametrize(
    ("line", "host", "port", "path"),
    [
        ("CONNECT example.org:443 HTTP/1.1", "example.org", 443, ""),
        ("CONNECT [2001:DB8::1]:8443 HTTP/1.0", "2001:db8::1", 8443, ""),
        ("GET http://Example.org HTTP/1.1", "example.org", 80, "/"),
        ("POST http://example.org:8080/a/b?c=d&e HTTP/1.1", "example.org", 8080, "/a/b?c=d&e"),
        ("GET http://[::1]/x HTTP/1.1", "::1", 80, "/x"),
        ("OPTIONS http://a/?http://b/ HTTP/1.1", "a", 80, "/?http://b/"),
        ("GET http://a?@b/ HTTP/1.1", "a", 80, "/?@b/"),
    ],
)
def test_the_destination_is_read_from_the_target(line: str, host: str, port: int, path: str) -> None:
    request = parsed(head(line, "Host: evil.example"))
    assert (request.host, request.port, request.path) == (host, port, path)


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("TRACE http://a/ HTTP/1.1", [], 400),
        ("get http://a/ HTTP/1.1", [], 400),
        ("GET  http://a/ HTTP/1.1", [], 400),
        ("GET http://a/ HTTP/1.1 ", [], 400),
        ("GET http://a\\@b/ HTTP/1.1", [], 400),
        ("GET http://a:80:90/ HTTP/1.1", [], 400),
        ("GET http://a:70000/ HTTP/1.1", [], 400),
        ("GET http://a%00b/ HTTP/1.1", [], 400),
        ("GET http://[fe80::1%25eth0]/ HTTP/1.1", [], 400),
        ("GET ftp://a/ HTTP/1.1", [], 400),
        ("CONNECT user@a:443 HTTP/1.1", [], 400),
        ("CONNECT a:443/ HTTP/1.1", [], 400),
        ("POST http://a/ HTTP/1.1", ["Content-Length: 1", "content-length: 1"], 400),
        ("POST http://a/ HTTP/1.1", ["Content-Length: -1"], 400),
        ("POST http://a/ HTTP/1.1", ["Content-Length: 1, 1"], 400),
        ("POST http://a/ HTTP/1.1", ["Content-Length:"], 400),
        ("POST http://a/ HTTP/1.1", ["Transfer-Encoding: chunked"], 411),
        ("POST http://a/ HTTP/1.1", ["Content-Length: 3", "Transfer-Encoding: identity"], 411),
        ("GET http://a/ HTTP/1.1", ["Host: a\nX: y"], 400),
        ("GET http://a/ HTTP/1.1", ["X: \x00"], 400),
        ("GET http://a/ HTTP/1.1", ["X\t: y"], 400),
        ("GET http://ä/ HTTP/1.1", [], 400),
    ],
    ids=repr,
)
def test_what_two_readers_could_take_for_two_things_is_rejected(line: str, headers: list[str], status: int) -> None:
    with pytest.raises(Rejected) as caught:
        parsed(head(line, *headers))
    assert caught.value.status == status


def test_what_goes_on_names_the_host_that_was_looked_at_and_asks_for_one_reply_only() -> None:
    headers = [
        "Host: evil.example",
        "Accept: */*",
        "Connection: keep-alive, upgrade",
        "Upgrade: h2c",
        "Content-Length: 4",
    ]
    request = parsed(head("POST http://example.org:8080/a HTTP/1.1", *headers, "Proxy-Authorization: Basic x"))
    assert request.body_bytes == 4
    rest = "Host: example.org:8080\r\nAccept: */*\r\nContent-Length: 4\r\nConnection: close\r\n"
    assert request.head().decode() == f"POST /a HTTP/1.1\r\n{rest}\r\n"
    absolute = request.head(absolute=True, further=["Proxy-Authorization: Basic y"]).decode()
    assert absolute == f"POST http://example.org:8080/a HTTP/1.1\r\n{rest}Proxy-Authorization: Basic y\r\n\r\n"


@given(st.binary(max_size=200) | st.text("GETCON htp:/[]@.%ae1\r\n\t", max_size=80).map(str.encode))
def test_any_bytes_are_a_request_or_rejected(data: bytes) -> None:
    try:
        request = parsed(data)
    except Rejected:
        return
    assert 0 <= request.port < 65_536
    assert b"\n" not in request.head().replace(b"\r\n", b"")
