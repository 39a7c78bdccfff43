import asyncio
import base64
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.egress.proxy import Limits
from orchestrator.sandboxes.index_proxy import IndexProxy
from tests.unit.environments.fakes import Upstream, content, settings_in

pytestmark = pytest.mark.anyio

BODY = b"x" * 300_000


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    server.answers["/simple/numpy/?a=b"] = content(BODY)
    with server.running():
        yield server


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.wait({asyncio.ensure_future(writer.wait_closed())})


async def said(path: Path, request: bytes, *, eof: bool = False) -> bytes:
    """All that the proxy answers."""
    async with asyncio.timeout(60), connected(path) as (reader, writer):
        writer.write(request)
        if eof:
            writer.write_eof()
        return await reader.read()


def fetch(upstream: Upstream, *, method: str = "GET") -> bytes:
    return (
        f"{method} http://127.0.0.1:{upstream.port}/simple/numpy/?a=b HTTP/1.1\r\nHost: evil.example\r\n"
        "Accept: */*\r\nProxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\n\r\n"
    ).encode()


def tunnel(upstream: Upstream, inner: bytes = b"") -> bytes:
    return f"CONNECT 127.0.0.1:{upstream.port} HTTP/1.1\r\nHost: 127.0.0.1:{upstream.port}\r\n\r\n".encode() + inner


async def test_a_fetch_from_an_allowed_host_is_passed_on(upstream: Upstream, tmp_path: Path) -> None:
    proxy = IndexProxy([("127.0.0.1", upstream.port)], upstream=None)
    async with proxy.listening(tmp_path) as path:
        answer = await said(path, fetch(upstream))
    assert answer.startswith(b"HTTP/1.0 200 ")
    assert answer.endswith(BODY)
    ((method, target, headers),) = upstream.requests
    assert (method, target) == ("GET", "/simple/numpy/?a=b")
    assert headers == {"host": f"127.0.0.1:{upstream.port}", "accept": "*/*", "connection": "close"}


async def test_nothing_after_the_first_fetch_reaches_the_host(upstream: Upstream, tmp_path: Path) -> None:
    async with IndexProxy([("127.0.0.1", upstream.port)], upstream=None).listening(tmp_path) as path:
        await said(path, fetch(upstream) + b"GET /second HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(upstream.requests) == 1


async def test_a_tunnel_to_an_allowed_host_carries_bytes_both_ways(upstream: Upstream, tmp_path: Path) -> None:
    inner = b"GET /simple/numpy/?a=b HTTP/1.1\r\nHost: inside\r\n\r\n"
    async with IndexProxy([("127.0.0.1", upstream.port)], upstream=None).listening(tmp_path) as path:
        answer = await said(path, tunnel(upstream, inner), eof=True)
    assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.0 200 ")
    assert answer.endswith(BODY)


@pytest.mark.parametrize(
    "request_line",
    [
        "CONNECT 127.0.0.1:{other}",
        "CONNECT localhost:{port}",
        "CONNECT 127.0.0.1.evil.example:{port}",
        "CONNECT [::1]:{port}",
        "CONNECT 169.254.169.254:80",
        "GET http://127.0.0.1:{other}/",
        "GET http://127.0.0.1/",
        "GET http://localhost:{port}/",
        "GET http://evil.example/?http://127.0.0.1:{port}/",
    ],
)
async def test_what_is_not_on_the_list_is_forbidden(request_line: str, upstream: Upstream, tmp_path: Path) -> None:
    line = request_line.format(port=upstream.port, other=upstream.port + 1)
    async with IndexProxy([("127.0.0.1", upstream.port)], upstream=None).listening(tmp_path) as path:
        answer = await said(path, f"{line} HTTP/1.1\r\nHost: 127.0.0.1:{upstream.port}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert upstream.requests == []


@pytest.mark.parametrize(
    "head",
    [
        b"POST http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
        b"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nhello",
        b"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nContent-Length: +5\r\n\r\nhello",
        b"CONNECT 127.0.0.1:99999 HTTP/1.1\r\n\r\n",
        b"GET http://user:password@127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
        b"GET https://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
        b"GET file:///etc/passwd HTTP/1.1\r\n\r\n",
        b"GET /relative HTTP/1.1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\n\r\n",
        b"GET http://127.0.0.1:{port}/ HTTP/2.0\r\n\r\n",
        b"GET http://127.0.0.1:{port}/ HTTP/1.1\nHost: x\r\n\r\n",
        b"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nA: b\nc\r\n\r\n",
        b"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nA : b\r\n\r\n",
        b"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n folded\r\n\r\n",
        b"CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n",
        b"CONNECT 127.0.0.1:+80 HTTP/1.1\r\n\r\n",
        b"CONNECT http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"\xff\xfe\r\n\r\n",
        b"\r\n\r\n",
        b"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
        b"x" * 40_000,
        b"GET http://127.0.0.1",
    ],
)
async def test_garbage_is_refused(head: bytes, upstream: Upstream, tmp_path: Path) -> None:
    async with IndexProxy([("127.0.0.1", upstream.port)], upstream=None).listening(tmp_path) as path:
        answer = await said(path, head.replace(b"{port}", str(upstream.port).encode()), eof=True)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert upstream.requests == []


async def test_a_head_that_does_not_end_is_not_waited_for(tmp_path: Path) -> None:
    async with IndexProxy([], upstream=None, limits=Limits(head_timeout_s=0.1)).listening(tmp_path) as path:
        assert await said(path, b"GET http://x/") == b""


async def test_an_idle_tunnel_is_cut(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        proxy = IndexProxy([("127.0.0.1", port)], upstream=None, limits=Limits(idle_timeout_s=0.1))
        async with proxy.listening(tmp_path) as path:
            answer = await said(path, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n"


async def test_connections_are_bounded_in_number(tmp_path: Path) -> None:
    async with IndexProxy([], upstream=None, limits=Limits(max_connections=3)).listening(tmp_path) as path:
        many = [await asyncio.open_unix_connection(path) for _ in range(3)]
        for _, writer in many:
            writer.write(b"GET ")
        assert (await said(path, b"")).startswith(b"HTTP/1.1 503 ")
        for _, writer in many:
            writer.close()


async def test_a_host_that_does_not_answer_is_a_bad_gateway(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with IndexProxy([("127.0.0.1", port)], upstream=None).listening(tmp_path) as path:
        assert (await said(path, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())).startswith(b"HTTP/1.1 502 ")


async def test_a_tunnel_goes_through_the_operators_proxy(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        refused = b"refused.example" in heads[-1]
        writer.write(b"HTTP/1.1 407 no\r\n\r\n" if refused else b"HTTP/1.1 200 yes\r\nVia: x\r\n\r\n")
        if not refused:
            writer.write((await reader.readexactly(4)).upper())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    allowed = [("index.example", 443), ("refused.example", 443)]
    proxy = IndexProxy(allowed, upstream=f"http://user:p%40ss@127.0.0.1:{port}")
    async with server, proxy.listening(tmp_path) as path:
        answer = await said(path, b"CONNECT index.example:443 HTTP/1.1\r\n\r\nping")
        refused = await said(path, b"CONNECT refused.example:443 HTTP/1.1\r\n\r\n")
    assert answer == b"HTTP/1.1 200 Connection established\r\n\r\nPING"
    assert refused.startswith(b"HTTP/1.1 502 ")
    authorization = base64.b64encode(b"user:p@ss")
    assert heads[0] == (
        b"CONNECT index.example:443 HTTP/1.1\r\nHost: index.example:443\r\nProxy-Authorization: Basic "
        + authorization
        + b"\r\n\r\n"
    )


async def test_a_fetch_goes_through_the_operators_proxy(upstream: Upstream, tmp_path: Path) -> None:
    upstream.answers["http://index.example/simple/"] = content(b"chained")
    proxy = IndexProxy([("index.example", 80)], upstream=f"http://user:pass@127.0.0.1:{upstream.port}")
    async with proxy.listening(tmp_path) as path:
        answer = await said(path, b"GET http://index.example/simple/ HTTP/1.1\r\nProxy-Authorization: stolen\r\n\r\n")
    assert answer.endswith(b"chained")
    ((_, target, headers),) = upstream.requests
    assert target == "http://index.example/simple/"
    assert headers["proxy-authorization"] == f"Basic {base64.b64encode(b'user:pass').decode()}"
    assert headers["host"] == "index.example"


async def test_leaving_the_block_cuts_every_connection_and_leaves_nothing(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with IndexProxy([("127.0.0.1", port)], upstream=None).listening(tmp_path) as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o666
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(60):
            assert await reader.read() == b""
        writer.close()
    assert not path.exists()
    assert asyncio.all_tasks() == before


async def test_the_length_of_the_directorys_path_does_not_matter(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    async with IndexProxy([], upstream=None).listening(deep) as path:
        assert path.is_socket()


async def test_the_index_and_its_file_hosts_are_what_settings_allow(tmp_path: Path, upstream: Upstream) -> None:
    upstream.answers["/simple/"] = content(b"index")
    settings = settings_in(tmp_path, index_url=f"http://127.0.0.1:{upstream.port}/simple", index_file_hosts=())
    async with IndexProxy.for_index(settings).listening(tmp_path) as path:
        allowed = await said(path, f"GET http://127.0.0.1:{upstream.port}/simple/ HTTP/1.1\r\n\r\n".encode())
        other = await said(path, b"GET http://pypi.org/simple/ HTTP/1.1\r\n\r\n")
    assert allowed.endswith(b"index")
    assert other.startswith(b"HTTP/1.1 403 ")
