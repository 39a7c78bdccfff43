"""One sandbox's proxy over real sockets: what it passes on, how much, and for how long. The index's proxy is one too
(`environments/test_index_proxy.py`); here is what that one never needs."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.egress.heads import Rejected, Request
from orchestrator.egress.proxy import Limits, Proxy
from orchestrator.egress.refusals import Refusals
from orchestrator.egress.relay import Pace, Streams
from orchestrator.egress.upstream import connected

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def server(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> AsyncIterator[int]:
    listening = await asyncio.start_server(answer, "127.0.0.1", 0)  # type: ignore[arg-type]
    async with listening:
        yield listening.sockets[0].getsockname()[1]


@asynccontextmanager
async def proxying(directory: Path, port: int, limits: Limits | None = None, **options: object) -> AsyncIterator[Path]:
    """All requests lead to `port` of this host, but those for `refused.example`."""

    async def dial(request: Request) -> tuple[Streams, bytes]:
        if request.host == "refused.example":
            raise Rejected(403, "not there")
        return await connected("127.0.0.1", port, timeout_s=60), b"" if request.is_tunnel else request.head()

    path = directory / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        async with Proxy(dial, limits or Limits(), **options).serving(listener):  # type: ignore[arg-type]
            yield path


async def said(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        async with asyncio.timeout(60):
            writer.write(request)
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_body_goes_on_and_what_comes_behind_it_does_not(tmp_path: Path) -> None:
    got: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(5))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                got.append(await reader.read(100))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    behind = b"GET http://10.0.0.1/ HTTP/1.1\r\n\r\n"
    async with server(answer) as port, proxying(tmp_path, port) as path:
        answered = await said(path, b"POST http://a/x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello" + behind)
    assert answered.endswith(b"\r\n\r\nok")
    assert got == [b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"]


async def test_a_rejection_says_why_in_its_status_line_and_is_told_of(tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    async with proxying(
        tmp_path, 1, on_rejected=lambda request, rejected: told.append((request.host, rejected.status))
    ) as path:
        answered = await said(path, b"CONNECT refused.example:443 HTTP/1.1\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 403 not there\r\n")
    assert told == [("refused.example", 403)]


async def test_where_there_is_no_room_connections_are_turned_away(tmp_path: Path) -> None:
    async with proxying(tmp_path, 1, admits=lambda: False) as path:
        assert (await said(path, b"")).startswith(b"HTTP/1.1 503 ")


async def test_bytes_move_no_faster_than_is_set(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"x" * 500_000)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    began = time.monotonic()
    async with server(answer) as port, proxying(tmp_path, port, Limits(bytes_per_s=1_000_000)) as path:
        assert len(await said(path, b"GET http://a/ HTTP/1.1\r\n\r\n")) == 500_000
    assert time.monotonic() - began > 0.4


async def test_a_pace_does_not_save_up_what_was_not_used() -> None:
    pace = Pace(1_000_000)
    await asyncio.sleep(0.2)
    began = time.monotonic()
    await pace.moved(200_000)
    assert time.monotonic() - began > 0.15


def test_refusals_are_told_once_a_second_and_sandbox_with_how_many_there_were() -> None:
    told: list[tuple[str, str, int]] = []
    now = [0.0]
    refusals = Refusals(lambda sandbox, host, port, reason, more: told.append((sandbox, host, more)), lambda: now[0])
    for moment, sandbox in ((0.0, "a"), (0.1, "a"), (0.2, "a"), (0.3, "b"), (1.1, "a"), (2.2, "a")):
        now[0] = moment
        refusals.note(sandbox, f"h{moment}", 80, "why")
    assert told == [("a", "h0.0", 0), ("b", "h0.3", 0), ("a", "h1.1", 2), ("a", "h2.2", 0)]
