"""A runner under an attacker's control can end its own session, and nothing else: no hang, no leak, no foreign reply."""

import asyncio
import contextlib
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from runner import frames

from orchestrator.errors import SandboxLost
from orchestrator.sandboxes import calls as calls_module
from orchestrator.sandboxes import content
from orchestrator.sandboxes.channel import RunnerConfig
from orchestrator.sandboxes.events import Events
from orchestrator.sandboxes.incoming import Incoming
from orchestrator.sandboxes.replies import InForm, Reply, TimedOut, Value, Violation, WorkerDied
from orchestrator.sandboxes.socket_channel import SocketChannel, greet
from orchestrator.sandboxes.work import Work
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
    reply_of,
    session,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def attack(
    run_dir: Path, misbehaviour: Misbehaviour, *, patience_s: float = PATIENCE_S
) -> AsyncIterator[SocketChannel]:
    """A channel to a runner that behaves until `configure` at the most."""
    async with fake_runner(run_dir) as (link, runner):
        misbehaving = asyncio.create_task(_until_refused(misbehaviour, runner))
        try:
            channel = await greet(link, patience_s)
            try:
                await channel.configure(CONFIG, timeout_s=patience_s)
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
    async with attack(run_dir, misbehaviour, patience_s=0.5):
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
        reply = await reply_of(channel, b"{}", timeout_s=PATIENCE_S)
        assert isinstance(reply, Violation), reply
        assert not channel.alive()
        assert await reply_of(channel, b"{}", timeout_s=PATIENCE_S) == Violation(reply.reason, sent=False)
    assert sockets() <= before


@pytest.mark.parametrize("name", NO_REPLIES)
async def test_no_reply_ends_at_the_deadline(name: str, open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_LATE_S", 0.1)
    async with attack(open_tmp_path, NO_REPLIES[name]) as channel:
        reply = await asyncio.wait_for(reply_of(channel, b"x" * 2_000_000, timeout_s=0.2), PATIENCE_S)
        assert reply == TimedOut()
        assert isinstance(await reply_of(channel, b"{}", timeout_s=PATIENCE_S), Violation)
        assert not channel.alive()


async def test_memory_follows_what_has_arrived_not_what_is_claimed(open_tmp_path: Path) -> None:
    claim = 500_000_000
    async with fake_runner(open_tmp_path) as (link, runner):
        connecting = asyncio.create_task(runner.configured())
        channel = await greet(link, PATIENCE_S)
        generous = RunnerConfig({}, claim, 0, 1, 1, 1)
        await channel.configure(generous, timeout_s=PATIENCE_S)
        control, worker = await connecting
        tracemalloc.start()
        try:
            calling = asyncio.create_task(reply_of(channel, b"{}", timeout_s=PATIENCE_S))
            call = await worker.receive()
            await worker.send(frames.HEADER.pack(frames.VALUE, b"\0\0\0", claim, 0, call.call_id) + b"{" * 1000)
            worker.close()  # whose words are read to their end
            await control.send_frame(frames.EXITED, b'{"code": null, "signal": 9}')
            assert await calling == WorkerDied(None, 9)
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()
            await channel.aclose()


async def test_a_second_reply_reaches_no_later_call(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        calling = asyncio.create_task(reply_of(channel, b"{}", timeout_s=PATIENCE_S))
        call = await worker.receive()
        reply = frames.encode(frames.VALUE, VALUE, call_id=call.call_id)
        forged = frames.encode(frames.VALUE, b'{"value":"forged"}', call_id=call.call_id)
        await worker.send(reply + forged)
        assert await calling == Value(VALUE)
        assert isinstance(await reply_of(channel, b"{}", timeout_s=PATIENCE_S), Violation)
        assert not channel.alive()


async def test_a_frame_while_idle_ends_the_channel(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        await worker.send_frame(frames.VALUE, VALUE, call_id=7)
        await worker.closed_by_peer()
        assert not channel.alive()


async def test_a_late_reply_reaches_no_later_call(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        calling = asyncio.create_task(reply_of(channel, b"first", timeout_s=0.05))
        first = await worker.receive()
        assert (await control.receive()).kind == frames.RESTART
        fresh = await runner.worker()
        assert await calling == TimedOut()
        calling = asyncio.create_task(reply_of(channel, b"second", timeout_s=PATIENCE_S))
        second = await fresh.receive()
        with contextlib.suppress(OSError):
            await worker.send_frame(frames.VALUE, b'{"value":"late"}', call_id=first.call_id)
        await fresh.send_frame(frames.VALUE, VALUE, call_id=second.call_id)
        assert await calling == Value(VALUE)


async def test_a_third_connection_is_not_taken(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, _, worker):
        third = await runner.supervisor()
        calling = asyncio.create_task(reply_of(channel, b"{}", timeout_s=PATIENCE_S))
        call = await worker.receive()
        await worker.send_frame(frames.VALUE, VALUE, call_id=call.call_id)
        assert await calling == Value(VALUE)
        await channel.aclose()
        await third.closed_by_peer()


async def test_a_killed_workers_connection_is_not_taken_for_a_fresh_one(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        waiting = await runner.worker(generation=1)  # queued before the deadline: about to be killed
        calling = asyncio.create_task(reply_of(channel, b"{}", timeout_s=0.05))
        await worker.receive()
        assert (await control.receive()).kind == frames.RESTART
        await waiting.closed_by_peer()
        stale = await runner.worker(generation=1)
        await stale.closed_by_peer()
        await runner.worker(generation=2)
        assert await calling == TimedOut()


async def test_a_runner_that_connects_over_and_over_is_given_up(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, _, worker):
        worker.close()
        while channel.alive():
            with contextlib.suppress(OSError):  # the queue is full, or refused in the end
                (await runner.worker(generation=1)).close()
            await asyncio.sleep(0)
        assert isinstance(await reply_of(channel, b"{}", timeout_s=PATIENCE_S), Violation)


async def test_dying_at_a_call_again_and_again_is_told_each_time(
    open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_EXITED_S", PATIENCE_S)
    async with session(open_tmp_path) as (channel, runner, control, worker):
        for _ in range(150):
            calling = asyncio.create_task(reply_of(channel, b"{}", timeout_s=PATIENCE_S))
            await worker.receive()
            worker.close()
            await control.send_frame(frames.EXITED, b'{"code": null, "signal": 9}')
            assert await calling == WorkerDied(None, 9)
            worker = await runner.worker()
        assert channel.alive()


# --- content and events ---

IN_PNG = b'{"form":"png","type":"","ms":0}'


async def replied(open_tmp_path: Path, forms: tuple[str, ...], kind: int, body: bytes, extra: bytes) -> Reply:
    """What a call that asks for `forms` ends in, if that is the reply to it."""
    async with session(open_tmp_path) as (channel, _, _, worker):
        calling = asyncio.create_task(channel.call(Work(frames.CALL, b"{}", forms=forms), timeout_s=PATIENCE_S))
        call = await worker.receive()
        with contextlib.suppress(ConnectionError):  # refused by its header
            await worker.send_frame(kind, body, call_id=call.call_id, extra=extra)
        reply = (await calling).reply
        if isinstance(reply, Violation):
            assert not channel.alive()
        return reply


def head(text: bytes) -> bytes:
    return frames.ENVELOPE.pack(len(text)) + text


@pytest.mark.parametrize(
    ("forms", "kind", "body", "extra"),
    [
        pytest.param(("png",), frames.CONTENT, b'{"form":"svg","type":"","ms":0}', b"x", id="a form not asked for"),
        pytest.param(("png",), frames.CONTENT, b'{"form":"text/html","type":"","ms":0}', b"x", id="an unknown form"),
        pytest.param(("png",), frames.CONTENT, b'{"type":"","ms":0}', b"x", id="no form"),
        pytest.param(("png",), frames.CONTENT, b'{"form":"png","type":"","ms":1e999}', b"x", id="endless time"),
        pytest.param(("png",), frames.CONTENT, IN_PNG, b"x" * (CONFIG.max_content_bytes + 9 * 2**20), id="too much"),
        pytest.param(("png",), frames.VALUE, VALUE, b"x", id="files nobody asked for"),
        pytest.param(("typed",), frames.RAISED, VALUE, b"x", id="files of a failure"),
        pytest.param(("typed",), frames.VALUE, b"[]", head(b'{"files":[]}'), id="a body that is no object"),
        pytest.param(("typed",), frames.VALUE, VALUE, b"xx", id="no envelope"),
        pytest.param(("typed",), frames.VALUE, VALUE, frames.ENVELOPE.pack(2**32 - 1), id="a head past the end"),
        pytest.param(("typed",), frames.VALUE, VALUE, head(b"{}"), id="a head without files"),
        pytest.param(("typed",), frames.VALUE, VALUE, head(b'{"files":[["f0",2]]}') + b"x", id="files too short"),
        pytest.param(("typed",), frames.VALUE, VALUE, head(b'{"files":[["f0",1]]}') + b"xx", id="bytes of no file"),
        pytest.param(("typed",), frames.VALUE, VALUE, head(b'{"files":[["f0",-1],["f1",1]]}'), id="a negative size"),
        pytest.param(("typed",), frames.VALUE, VALUE, head(b'{"files":[["f0",0],["f0",0]]}'), id="a name twice"),
        pytest.param(("typed",), frames.VALUE, VALUE, head(b'{"files":[["\\r\\nSet-Cookie: a",0]]}'), id="a wild name"),
    ],
)
async def test_content_that_is_not_what_it_must_be_ends_the_sandbox(
    forms: tuple[str, ...], kind: int, body: bytes, extra: bytes, open_tmp_path: Path
) -> None:
    assert isinstance(await replied(open_tmp_path, forms, kind, body, extra), Violation)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (frames.OUTPUT, b"[]"),
        (frames.OUTPUT, b'{"stdout":\n""}'),
        (frames.OUTPUT, b"{"),
        (frames.OUTPUT, b'{"stdout":"\xff"}'),
        (frames.OUTPUT, b'{"stdout":"","pipe":0}'),  # as if another sandbox had printed it
        (frames.ITEM, b'{"index":0,"value":1,"\\u0070ipe":0}'),
        (frames.ITEM, b'{"index":0}'),
    ],
)
async def test_an_event_that_is_not_what_it_must_be_ends_the_sandbox(
    kind: int, body: bytes, open_tmp_path: Path
) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        work = Work(frames.CALL, b"{}", frames.STREAM)
        calling = asyncio.create_task(channel.call(work, timeout_s=PATIENCE_S, events=Events()))
        await worker.send_frame(kind, body, call_id=(await worker.receive()).call_id)
        assert isinstance((await calling).reply, Violation)
        assert not channel.alive()


async def test_content_that_stops_coming_ends_the_sandbox(open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_STALL_S", 0.1)
    async with session(open_tmp_path) as (channel, _, _, worker):
        work = Work(frames.CALL, b"{}", forms=("png",))
        calling = asyncio.create_task(channel.call(work, timeout_s=PATIENCE_S))
        call = await worker.receive()
        header = frames.HEADER.pack(frames.CONTENT, b"\0\0\0", len(IN_PNG), 1000, call.call_id)
        await worker.send(header + IN_PNG + b"x")
        reply = (await calling).reply
        assert isinstance(reply, InForm)
        with pytest.raises(SandboxLost):
            await content.read(reply.content, limit_bytes=1000)
        assert not channel.alive()


async def test_content_is_held_no_faster_than_it_is_read(open_tmp_path: Path) -> None:
    claim = 1_000_000_000
    async with fake_runner(open_tmp_path) as (link, runner):
        connecting = asyncio.create_task(runner.configured())
        channel = await greet(link, PATIENCE_S)
        await channel.configure(replace(CONFIG, max_content_bytes=claim), timeout_s=PATIENCE_S)
        _, worker = await connecting
        calling = asyncio.create_task(channel.call(Work(frames.CALL, b"{}", forms=("png",)), timeout_s=PATIENCE_S))
        call = await worker.receive()
        await worker.send(frames.HEADER.pack(frames.CONTENT, b"\0\0\0", len(IN_PNG), claim, call.call_id) + IN_PNG)
        reply = (await calling).reply
        assert isinstance(reply, InForm)
        assert isinstance(reply.content, Incoming)
        sending = asyncio.create_task(worker.send(b"x" * 8_000_000))
        assert not (await asyncio.wait([sending], timeout=0.2))[0]
        assert claim - reply.content.missing < 2_000_000
        sending.cancel()
        await channel.aclose()
