"""What goes over the wire for what an app sends, on a real server and real sockets."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.api import connection
from orchestrator.settings import Settings

pytestmark = pytest.mark.anyio
Asked = Callable[[ASGIApp, bytes], Awaitable[bytes]]

GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    """Serve an app, send it bytes, and read until it closes."""
    protocol = connection.connections(Settings(data_dir=tmp_path))

    async def ask(app: ASGIApp, request: bytes) -> bytes:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=protocol, log_config=None, lifespan="off", ws="none", server_header=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))
        try:
            async with asyncio.timeout(30):
                while True:
                    await asyncio.sleep(0.01)
                    if server.started:
                        break
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                writer.write(request)
                reply = await reader.read()
                writer.close()
        finally:
            server.should_exit = True
            await serving
            listener.close()
        return reply

    return ask


def sending(*messages: Message, fails: bool = False) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if fails:
            msg = "on purpose"
            raise ValueError(msg)

    return app


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def body(data: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_a_counted_reply_is_sent_as_it_is(asked: Asked) -> None:
    for data in (b"", b"12345", bytes(300_000)):
        reply = await asked(sending(start((b"content-length", b"%d" % len(data))), body(data)), GET)
        head, _, rest = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"connection: close")
        assert b"transfer-encoding" not in head
        assert rest == data


async def test_one_of_unknown_length_goes_out_in_chunks(asked: Asked) -> None:
    reply = await asked(sending(start(), body(b"one", more=True), body(b"", more=True), body(b"three")), GET)
    head, _, rest = reply.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert rest == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


async def test_head_has_no_body(asked: Asked) -> None:
    reply = await asked(sending(start((b"content-length", b"5")), body(b"12345")), GET.replace(b"GET", b"HEAD"))
    assert b"content-length: 5" in reply
    assert reply.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "header",
    [(b"x-told", b"a\r\nset-cookie: b"), (b"x-told", b"a\nb"), (b"x\r\ny", b"a"), (b"x y", b"a"), (b"x", b"\0")],
)
async def test_no_header_begins_a_line_of_its_own(asked: Asked, header: tuple[bytes, bytes]) -> None:
    reply = await asked(sending(start(header, (b"content-length", b"0")), body(b"")), GET)
    assert reply.startswith(b"HTTP/1.1 500 ")
    assert b"set-cookie" not in reply


@pytest.mark.parametrize("told", [3, 9])
async def test_a_reply_of_another_length_than_told_is_cut(asked: Asked, told: int) -> None:
    reply = await asked(sending(start((b"content-length", b"%d" % told)), body(b"12345")), GET)
    assert not reply.endswith(b"12345") or told > len(b"12345")
    assert len(reply.partition(b"\r\n\r\n")[2]) != told


@pytest.mark.parametrize("begun", [True, False])
async def test_what_an_app_leaves_undone_is_cut_and_not_silent(asked: Asked, begun: bool) -> None:
    messages = (start((b"content-length", b"5")),) if begun else ()
    reply = await asked(sending(*messages, fails=True), GET)
    head, _, rest = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200" if begun else b"HTTP/1.1 500")
    assert rest == b""


async def test_requests_that_come_at_once_are_answered_in_order(asked: Asked) -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        taken = await receive()
        told = scope["path"].encode() + b"?" + scope["query_string"] + taken["body"]
        await send(start((b"content-length", b"%d" % len(told))))
        await send(body(told))

    first = b"POST /a%20b?q=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    reply = await asked(echo, first + first.replace(b"/a%20b?q=1", b"/second") + GET)
    assert [part.partition(b"HTTP")[0] for part in reply.split(b"\r\n\r\n")[1:]] == [
        b"/a b?q=1abc",
        b"/second?abc",
        b"/?",
    ]


async def test_who_is_cut_off_for_a_crowd_behind_a_request_has_left_that_request(asked: Asked) -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while not told or told[-1] != "http.disconnect":
            told.append((await receive())["type"])

    async with asyncio.timeout(30):
        assert await asked(app, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100) == b""
    assert told == ["http.request", "http.disconnect"]
