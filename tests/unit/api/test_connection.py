"""Clients that dawdle, on a real server and real sockets.

What must not be cut off has a server with the usual limits, whose clock a test turns on by hand: a busy machine is no client.
"""

import asyncio
import json
import math
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn

from orchestrator.api import connection
from orchestrator.sandboxes.replies import Value
from orchestrator.workers.connection import connections as worker_connections
from orchestrator.workers.counts import Counts
from tests.links import linked

pytestmark = pytest.mark.anyio

PATIENCE_S = 60


class Served:
    def __init__(self, api: Any, server: uvicorn.Server, port: int) -> None:
        self.api = api
        self.server = server
        self.port = port

    def connections(self) -> list[connection.Connection]:
        return [each for each in self.server.server_state.connections if isinstance(each, connection.Connection)]

    async def until(self, holds: Callable[[list[connection.Connection]], bool]) -> None:
        """Wait until something holds of the server's connections."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds(self.connections()):  # noqa: ASYNC110 (the server tells nobody)
                await asyncio.sleep(0.005)

    async def exchange(self, sent: bytes = b"") -> bytes:
        """Send, and read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(sent)
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@pytest.fixture(params=["one process", "worker"])
def process(request: pytest.FixtureRequest) -> str:
    """Who speaks HTTP: the process that has the app, or one of several."""
    return str(request.param)


@pytest.fixture
async def served(make_api: Any, process: str) -> AsyncIterator[Served]:
    async with serving(await make_api(default_version="3.12", max_connections=5), process) as served:
        yield served


@pytest.fixture
async def hasty(make_api: Any, process: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """One that cuts off whom it waits for a fifth of a second."""
    monkeypatch.setattr(connection, "SWEEP_S", 0.02)
    api = await make_api(default_version="3.12", header_timeout_s=0.2, body_timeout_s=0.2, reply_timeout_s=0.2)
    async with serving(api, process) as served:
        yield served


@asynccontextmanager
async def serving(api: Any, process: str) -> AsyncIterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    async with AsyncExitStack() as stack:
        app, http = api.app, connection.connections(api.settings, api.app.refusal)
        if process == "worker":
            await stack.enter_async_context(api.app.router.lifespan_context(api.app))
            app = (await stack.enter_async_context(linked(api.app, api.app.refusal))).edge
            counts = Counts.created(1)
            stack.callback(counts.close)
            http = worker_connections(api.settings, counts, 0)
        config = connection.configured(app, api.settings, http=http, lifespan="off" if process == "worker" else "on")
        server = uvicorn.Server(config)
        running = asyncio.create_task(server._serve([listener]))
        sweeping = asyncio.create_task(connection.sweep(server, lambda _: api.settings.max_unread_bytes))
        served = Served(api, server, listener.getsockname()[1])
        await served.until(lambda _: server.started)
        yield served
        server.should_exit = True
        await running
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
    listener.close()


def problem(reply: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"x-request-id: " in head.lower()
    return int(head.split()[1]), json.loads(body)


async def test_a_head_that_does_not_end_is_cut_off(hasty: Served) -> None:
    status, told = problem(await hasty.exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "))
    assert (status, told["code"]) == (408, "request_timeout")


async def test_so_is_who_never_says_a_word(hasty: Served) -> None:
    assert problem(await hasty.exchange())[0] == 408


@pytest.mark.parametrize("path", ["setup", "call", "describe"])
async def test_a_body_that_does_not_end_is_cut_off(hasty: Served, path: str) -> None:
    token = await hasty.api.token()
    head = f"POST /environment/python/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 9\r\n\r\n"
    status, told = problem(await hasty.exchange(head.encode() + b"{"))
    assert (status, told["code"]) == (408, "request_timeout")
    assert not hasty.api.sessions.calls


async def test_an_upload_is_cut_off_only_when_it_stalls(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LEAST_SENT_BYTES", 1000)
    token = await served.api.token()
    call = b'--x\r\nContent-Disposition: form-data; name="call"\r\n\r\n{"sessionid": "s", "namepath": "a"}\r\n--x'
    file = b'\r\nContent-Disposition: form-data; name="data"\r\n\r\n'
    head = (
        (
            f"POST /environment/python/call HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"
            f"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {len(call + file) + 20_000 + 7}\r\n\r\n"
        ).encode()
        + call
        + file
    )

    async def sent(pieces: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        now, unseen = asyncio.get_running_loop().time(), len(call + file)
        try:
            writer.write(head)
            for _ in range(pieces):
                writer.write(b"x" * 2000)
                unseen += 2000
                await served.until(lambda found: [each.body_bytes for each in found] == [unseen])  # noqa: B023
                now, unseen = now + 1.5 * served.api.settings.body_timeout_s, 0
                served.connections()[0].check(now)
            if pieces == 10:
                writer.write(b"\r\n--x--")
            else:
                served.connections()[0].check(now + 1.5 * served.api.settings.body_timeout_s)
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        finally:
            writer.close()
            await served.until(lambda found: not found)

    whole, stalled = await sent(10), await sent(5)
    assert whole.startswith(b"HTTP/1.1 200")
    assert problem(stalled)[0] == 408
    (work,) = served.api.sessions.work
    assert work.files[0].size == 20_000


async def test_an_upload_that_was_refused_has_no_longer_than_any_body(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(
        b"POST /environment/python/call HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401")
    piece = b"%x\r\n%b\r\n" % (connection.LEAST_SENT_BYTES, b"x" * connection.LEAST_SENT_BYTES)

    async def pour() -> None:
        while True:  # without end, if the server let it
            writer.write(piece)
            await writer.drain()

    pouring = asyncio.create_task(pour())
    (refused,) = served.connections()
    await served.until(lambda _: refused.body_bytes >= connection.LEAST_SENT_BYTES)
    refused.check(asyncio.get_running_loop().time() + 1.5 * served.api.settings.body_timeout_s)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(pouring, PATIENCE_S)
    writer.close()


async def test_bytes_that_are_no_http_are_a_problem_too(served: Served) -> None:
    status, told = problem(await served.exchange(b"\x16\x03\x01\x02\x00 hello\r\n\r\n"))
    assert (status, told["code"]) == (400, "invalid_request")


async def test_length_and_chunks_together_are_refused_and_nothing_behind_them_is_served(served: Served) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    request = (
        b"POST /environment/python/setup HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n" + smuggled
    )
    reply = await served.exchange(request)
    assert reply.startswith(b"HTTP/1.1 400")
    assert reply.count(b"\r\n\r\n") == 1


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def test_requests_that_wait_behind_another_are_served_in_order(served: Served) -> None:
    reply = await served.exchange(10 * HEALTH + LAST)
    assert reply.count(b"HTTP/1.1 200") == 11


async def test_a_crowd_of_requests_at_once_is_cut_off(served: Served) -> None:
    reply = await served.exchange(10_000 * HEALTH)
    assert reply.count(b"HTTP/1.1 200") <= 1
    assert (await served.exchange(LAST)).startswith(b"HTTP/1.1 200")


async def test_a_head_is_bounded_behind_another_request_too(served: Served) -> None:
    large = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Large: %b\r\n\r\n" % (b"x" * 60_000)
    reply = await served.exchange(HEALTH + large)
    assert reply.count(b"HTTP/1.1 200") <= 1
    assert b"HTTP/1.1 200" not in await served.exchange(large)


async def test_a_body_that_comes_after_its_answer_keeps_no_connection_for_ever(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST /environment/python/call HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401")
    (idle,) = served.connections()
    writer.write(b"67890")
    await served.until(lambda _: idle.due_by is None)
    assert idle.kept_until < math.inf
    idle.check(idle.kept_until + 1)
    async with asyncio.timeout(PATIENCE_S):
        await reader.read()  # to its end
    writer.close()


async def test_past_the_bound_who_says_nothing_makes_room_for_who_does(served: Served) -> None:
    held = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(5)]
    try:
        await served.until(lambda found: len(found) == 5)
        for _ in range(3):
            reply = await served.exchange(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert reply.startswith(b"HTTP/1.1 200")
        assert await held[0][0].read() == b""  # the first of them had waited longest
    finally:
        for _, writer in held:
            writer.close()


async def test_while_all_are_being_served_newcomers_are_told_to_come_again(served: Served) -> None:
    served.api.sessions.opening = asyncio.Event()
    token = await served.api.token()
    head = f"POST /environment/python/setup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    held = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(5)]
    try:
        for _, writer in held:
            writer.write(f"{head}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())
        await served.until(lambda found: [each.waits_since() for each in found] == [math.inf] * 5)
        status, told = problem(await served.exchange())
        assert (status, told["code"]) == (503, "too_many_connections")
        served.api.sessions.opening.set()
        for reader, _ in held:
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
    finally:
        for _, writer in held:
            writer.close()


async def test_a_reply_that_nobody_reads_does_not_stay(hasty: Served) -> None:
    hasty.api.sessions.reply = Value(b"[" + b"0," * 20_000_000 + b"0]")
    token = await hasty.api.token()
    body = b'{"sessionid": "s", "namepath": "a"}'
    sock = socket.create_connection(("127.0.0.1", hasty.port))
    head = f"POST /environment/python/call HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await hasty.until(lambda _: bool(hasty.api.sessions.calls))
    await hasty.until(lambda found: not found)
    received = bytearray()
    with sock:
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while chunk := await loop.sock_recv(sock, 1 << 20):
                    received += chunk
        except ConnectionResetError:
            pass
    assert received.startswith(b"HTTP/1.1 200")
    assert len(received) < len(hasty.api.sessions.reply.body)


async def test_others_are_served_meanwhile_and_idle_connections_stay(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for _ in range(3):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert json.loads(await reader.readexactly(length))["status"] == "ok"
        (idle,) = served.connections()
        idle.check(idle.kept_until - 1)  # between requests nothing is due but the next one, for long
    idle.check(idle.kept_until + 1)
    assert await reader.read() == b""
    writer.close()
