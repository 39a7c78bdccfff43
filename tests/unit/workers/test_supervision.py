"""Worker processes that end or hang, and those that take their places."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from orchestrator.api.admission import admit
from orchestrator.settings import Settings
from orchestrator.workers import supervision
from orchestrator.workers.supervision import Workers
from tests.links import linked

pytestmark = pytest.mark.anyio

PATIENCE_S = 60.0
GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[socket.socket]:
    """Where one worker process answers, and another in its place."""
    monkeypatch.setattr(supervision, "ASK_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        workers = Workers(app, admit, listener, Settings(data_dir=tmp_path, workers=1))
        await workers.start()
        try:
            yield listener
        finally:
            await workers.stop()


async def asked(listener: socket.socket) -> bytes:
    """The reply of whichever worker takes the connection; empty where that is cut off."""
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    try:
        writer.write(GET)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def worker_of_this_process() -> int:
    tasks = Path("/proc/self/task").glob("*/children")
    children = [int(child) for path in tasks for child in path.read_text().split()]
    (found,) = [pid for pid in children if b"orchestrator.workers" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found


async def test_one_that_hangs_is_replaced(listener: socket.socket) -> None:
    first = worker_of_this_process()
    os.kill(first, signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE_S):
        while not (reply := await asked(listener)):  # the stopped one may have taken the connection
            pass
    assert reply.startswith(b"HTTP/1.1 200")
    assert worker_of_this_process() != first


async def test_one_that_runs_says_so_whenever_it_is_asked() -> None:
    async with linked(app) as link, asyncio.timeout(PATIENCE_S):
        for _ in range(2):
            link.owner.ask()
            assert not link.owner.alive
            while not link.owner.alive:  # noqa: ASYNC110 (nobody waits for it but the next question)
                await asyncio.sleep(0.001)
