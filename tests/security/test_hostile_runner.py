"""A runner under an attacker's control can end its own session, and nothing else: no hang, no leak, no foreign reply."""

import asyncio
import contextlib
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from runner import frames

from orchestrator.errors import SandboxLost
from orchestrator.sandboxes import channel as channel_module
from orchestrator.sandboxes.channel import SocketChannel, TimedOut, Value, Violation, WorkerDied, greet
from tests.security.fake_runner import (
    CONFIG,
    NO_REPLIES,
    PATIENCE_S,
    VALUE,
    WRONG_GREETINGS,
    WRONG_REPLIES,
    FakeRunner,
    Misbehaviour,
    fake_runner,
    session,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def attack(run_dir: Path, misbehaviour: Misbehaviour) -> AsyncIterator[SocketChannel]:
    """A channel to a runner that behaves until `configure` at the most."""
    async with fake_runner(run_dir) as (link, runner):
        misbehaving = asyncio.create_task(_until_refused(misbehaviour, runner))
        try:
            channel = await greet(link, 0.5)
            try:
                await channel.configure(CONFIG, timeout_s=0.5)
                yield channel
            finally:
                await channel.aclose()
        finally:
            misbehaving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await misbehaving


async def _until_refused(misbehaviour: Misbehaviour, runner: FakeRunner) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        await misbehaviour(runner)


def sockets() -> set[str]:
    """The sockets this process holds, by inode."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("socket:")}


async def greeted_by(run_dir: Path, misbehaviour: Misbehaviour) -> None:
    async with attack(run_dir, misbehaviour):
        pass


@pytest.mark.parametrize("name", WRONG_GREETINGS)
async def test_a_wrong_greeting_ends_in_sandbox_lost(name: str, open_tmp_path: Path) -> None:
    before = sockets()
    with pytest.raises(SandboxLost):
        await greeted_by(open_tmp_path, WRONG_GREETINGS[name])
    assert sockets() <= before


@pytest.mark.parametrize("name", WRONG_REPLIES)
async def test_a_wrong_reply_is_a_violation_that_ends_the_channel(name: str, open_tmp_path: Path) -> None:
    before = sockets()
    async with attack(open_tmp_path, WRONG_REPLIES[name]) as channel:
        reply = await channel.call(b"{}", flags=0, timeout_s=PATIENCE_S)
        assert isinstance(reply, Violation), reply
        assert not channel.alive()
        assert await channel.call(b"{}", flags=0, timeout_s=PATIENCE_S) == reply
    assert sockets() <= before


@pytest.mark.parametrize("name", NO_REPLIES)
async def test_no_reply_ends_at_the_deadline(name: str, open_tmp_path: Path) -> None:
    async with attack(open_tmp_path, NO_REPLIES[name]) as channel:
        began = time.monotonic()
        reply = await channel.call(b"x" * 2_000_000, flags=0, timeout_s=0.2)
        assert time.monotonic() - began < 0.2 + 0.25
        assert reply == TimedOut(clean=False)
        assert not channel.alive()


async def test_memory_follows_what_has_arrived_not_what_is_claimed(open_tmp_path: Path) -> None:
    claim = 500_000_000
    async with fake_runner(open_tmp_path) as (link, runner):
        connecting = asyncio.create_task(runner.configured())
        channel = await greet(link, PATIENCE_S)
        generous = channel_module.RunnerConfig({}, claim, 0, 1, 1, 1)
        await channel.configure(generous, timeout_s=PATIENCE_S)
        _, worker = await connecting
        tracemalloc.start()
        try:
            calling = asyncio.create_task(channel.call(b"{}", flags=0, timeout_s=0.2))
            call = await worker.receive()
            await worker.send(frames.HEADER.pack(frames.VALUE, b"\0\0\0", claim, 0, call.call_id) + b"{" * 1000)
            assert isinstance(await calling, TimedOut)
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()
            await channel.aclose()


async def test_a_second_reply_reaches_no_later_call(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        calling = asyncio.create_task(channel.call(b"{}", flags=0, timeout_s=PATIENCE_S))
        call = await worker.receive()
        reply = frames.encode(frames.VALUE, VALUE, call_id=call.call_id)
        forged = frames.encode(frames.VALUE, b'{"value":"forged"}', call_id=call.call_id)
        await worker.send(reply + forged)
        assert await calling == Value(VALUE)
        assert isinstance(await channel.call(b"{}", flags=0, timeout_s=PATIENCE_S), Violation)
        assert not channel.alive()


async def test_a_frame_while_idle_ends_the_channel(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        await worker.send_frame(frames.VALUE, VALUE, call_id=7)
        await worker.closed_by_peer()
        assert not channel.alive()


async def test_a_late_reply_reaches_no_later_call(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        calling = asyncio.create_task(channel.call(b"first", flags=0, timeout_s=0.05))
        first = await worker.receive()
        assert (await control.receive()).kind == frames.RESTART
        fresh = await runner.worker()
        assert await calling == TimedOut(clean=True)
        calling = asyncio.create_task(channel.call(b"second", flags=0, timeout_s=PATIENCE_S))
        second = await fresh.receive()
        with contextlib.suppress(OSError):
            await worker.send_frame(frames.VALUE, b'{"value":"late"}', call_id=first.call_id)
        await fresh.send_frame(frames.VALUE, VALUE, call_id=second.call_id)
        assert await calling == Value(VALUE)


async def test_a_third_connection_is_not_taken(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, _, worker):
        third = await runner.supervisor()
        calling = asyncio.create_task(channel.call(b"{}", flags=0, timeout_s=PATIENCE_S))
        call = await worker.receive()
        await worker.send_frame(frames.VALUE, VALUE, call_id=call.call_id)
        assert await calling == Value(VALUE)
        await channel.aclose()
        await third.closed_by_peer()


async def test_a_killed_workers_connection_is_not_taken_for_a_fresh_one(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        waiting = await runner.worker(generation=1)  # queued before the deadline: about to be killed
        calling = asyncio.create_task(channel.call(b"{}", flags=0, timeout_s=0.05))
        await worker.receive()
        assert (await control.receive()).kind == frames.RESTART
        await waiting.closed_by_peer()
        stale = await runner.worker(generation=1)
        await stale.closed_by_peer()
        await runner.worker(generation=2)
        assert await calling == TimedOut(clean=True)


async def test_a_runner_that_connects_over_and_over_is_given_up(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, _, worker):
        worker.close()
        while channel.alive():
            with contextlib.suppress(OSError):  # the queue is full, or refused in the end
                (await runner.worker(generation=1)).close()
            await asyncio.sleep(0)
        assert isinstance(await channel.call(b"{}", flags=0, timeout_s=PATIENCE_S), Violation)


async def test_dying_at_a_call_again_and_again_is_told_each_time(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        for _ in range(150):
            calling = asyncio.create_task(channel.call(b"{}", flags=0, timeout_s=PATIENCE_S))
            await worker.receive()
            worker.close()
            await control.send_frame(frames.EXITED, b'{"code": null, "signal": 9}')
            assert await calling == WorkerDied(None, 9)
            worker = await runner.worker()
        assert channel.alive()
