"""Imports ahead of a session: what the runner of a warm sandbox may say, and what it may not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from runner import frames

from orchestrator.errors import SandboxLost
from orchestrator.sandboxes.replies import Value
from orchestrator.sandboxes.socket_channel import SocketChannel, greet
from tests.security.fake_runner import CONFIG, PATIENCE_S, VALUE, Connection, FakeRunner, fake_runner, reply_of

pytestmark = pytest.mark.anyio

DONE = b'{"bytes": 1000}'


@asynccontextmanager
async def greeted(run_dir: Path) -> AsyncIterator[tuple[SocketChannel, FakeRunner, Connection]]:
    """A channel to a runner that is not configured yet, and its control connection."""
    async with fake_runner(run_dir) as (link, runner):
        control = asyncio.create_task(runner.supervisor())
        channel = await greet(link, PATIENCE_S)
        try:
            yield channel, runner, await control
        finally:
            await channel.aclose()


def start(channel: SocketChannel, timeout_s: float = PATIENCE_S) -> "asyncio.Task[int]":
    return asyncio.create_task(channel.preload(["numpy", "scipy"], timeout_s=timeout_s))


async def ended(channel: SocketChannel) -> bool:
    async with asyncio.timeout(PATIENCE_S):
        while channel.alive():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
    return True


async def test_it_is_told_what_to_import_and_is_configured_after(open_tmp_path: Path) -> None:
    async with greeted(open_tmp_path) as (channel, runner, control):
        preloading = start(channel)
        told = await control.receive()
        assert (told.kind, json.loads(told.body)) == (frames.PRELOAD, {"distributions": ["numpy", "scipy"]})
        await control.send_frame(frames.PRELOADED, DONE)
        assert await preloading == 1000
        configuring = asyncio.create_task(channel.configure(CONFIG, timeout_s=PATIENCE_S))
        assert (await control.receive()).kind == frames.CONFIG
        worker = await runner.worker()
        await configuring
        calling = asyncio.create_task(reply_of(channel, b"{}", timeout_s=PATIENCE_S))
        await worker.send_frame(frames.VALUE, VALUE, call_id=(await worker.receive()).call_id)
        assert await calling == Value(VALUE)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"{", b'{"bytes": -1}', b'{"bytes": 1.5}', b'{"bytes": 9007199254740992}', b'{"bytes": "1"}'],
)
async def test_an_answer_that_says_nothing_sound_ends_it(open_tmp_path: Path, body: bytes) -> None:
    async with greeted(open_tmp_path) as (channel, _, control):
        preloading = start(channel)
        await control.receive()
        await control.send_frame(frames.PRELOADED, body)
        with pytest.raises(SandboxLost):
            await preloading
        assert not channel.alive()


async def test_an_answer_of_any_size_is_not_taken_in(open_tmp_path: Path) -> None:
    async with greeted(open_tmp_path) as (channel, _, control):
        preloading = start(channel)
        await control.receive()
        await control.send(frames.HEADER.pack(frames.PRELOADED, b"\0\0\0", 2**31, 0, 0))
        with pytest.raises(SandboxLost):
            await preloading


async def test_it_may_not_answer_before_it_is_asked(open_tmp_path: Path) -> None:
    async with greeted(open_tmp_path) as (channel, _, control):
        await control.send_frame(frames.PRELOADED, DONE)
        assert await ended(channel)
        with pytest.raises(SandboxLost):
            await channel.preload([], timeout_s=PATIENCE_S)


async def test_it_may_not_answer_twice(open_tmp_path: Path) -> None:
    async with greeted(open_tmp_path) as (channel, _, control):
        preloading = start(channel)
        await control.receive()
        await control.send(frames.encode(frames.PRELOADED, DONE) * 2)
        await asyncio.gather(preloading, return_exceptions=True)
        assert await ended(channel)


async def test_it_may_not_hang_up(open_tmp_path: Path) -> None:
    async with greeted(open_tmp_path) as (channel, _, control):
        preloading = start(channel)
        await control.receive()
        control.close()
        with pytest.raises(SandboxLost):
            await preloading


async def test_it_may_not_take_for_ever_and_what_comes_late_is_nothing(open_tmp_path: Path) -> None:
    async with greeted(open_tmp_path) as (channel, _, control):
        with pytest.raises(SandboxLost, match="longer than"):
            await start(channel, timeout_s=0.05)
        await control.send_frame(frames.PRELOADED, DONE)
        with pytest.raises(SandboxLost):
            await channel.configure(CONFIG, timeout_s=0.05)


async def test_while_it_waits_it_has_no_worker_and_reports_without_end_are_not_listened_to(open_tmp_path: Path) -> None:
    async with greeted(open_tmp_path) as (channel, runner, control):
        preloading = start(channel)
        await control.receive()
        await control.send_frame(frames.PRELOADED, DONE)
        await preloading
        await runner.worker(generation=1)  # is not let in, nor does it cost the channel anything
        assert channel.alive()
        await control.send(frames.encode(frames.EXITED, b'{"code": 0, "signal": null}') * 1000)
        assert await ended(channel)
