"""What goes beside the JSON: files of requests, content of replies, events before them. With a runner that keeps the protocol."""

import asyncio
import json
import tempfile
from io import BytesIO
from pathlib import Path

import pytest
from runner import frames

from orchestrator.errors import SandboxLost
from orchestrator.sandboxes import calls as calls_module
from orchestrator.sandboxes import content
from orchestrator.sandboxes.events import Event, Events
from orchestrator.sandboxes.incoming import Incoming
from orchestrator.sandboxes.replies import InForm, NotSerializable, Typed, Value, Violation
from orchestrator.sandboxes.socket_channel import SocketChannel
from orchestrator.sandboxes.work import File, Run, Work, send
from tests.security.fake_runner import PATIENCE_S, VALUE, reply_of, session

pytestmark = pytest.mark.anyio

MB = 1024 * 1024
PNG = b'{"form":"png","type":"Figure","ms":1.5}'


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def start(channel: SocketChannel, work: Work, events: Events | None = None) -> asyncio.Task[Run]:
    return asyncio.create_task(channel.call(work, timeout_s=PATIENCE_S, events=events))


def asking(*forms: str) -> Work:
    return Work(frames.CALL, b"{}", forms=forms)


def envelope(*files: tuple[str, bytes]) -> bytes:
    head = json.dumps({"files": [(name, len(data)) for name, data in files]}).encode()
    return frames.ENVELOPE.pack(len(head)) + head + b"".join(data for _, data in files)


async def whole(read: content.Content) -> bytes:
    return await content.read(read, limit_bytes=10 * MB)


# --- files of a request ---


async def test_small_files_are_written_together_and_in_their_order() -> None:
    files = [File(f"f{i}", 1000, bytes([i % 256]) * 1000) for i in range(1000)]
    files[500] = File("f500", 2 * MB, BytesIO(b"x" * 2 * MB))
    files[501] = File("f501", 0, b"")
    written: list[bytes] = []

    async def write(piece: bytes) -> None:
        written.append(piece)

    await send(files, write)
    assert b"".join(written) == b"".join(
        f.source if isinstance(f.source, bytes) else f.source.getvalue() for f in files
    )  # type: ignore[attr-defined]
    assert len(written) < 25
    assert max(map(len, written)) <= 1 * MB + 65 * 1024


async def test_files_go_to_the_runner_behind_their_names(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        with tempfile.TemporaryFile() as spooled:
            spooled.write(b"b" * 3 * MB)
            files = (File("a", 3, b"aaa"), File("b", 3 * MB, spooled), File("none", 0, b""))
            calling = start(channel, Work(frames.COMPOSE, b'{"x":1}', forms=("png", "json"), files=files))
            call = await worker.receive()
            (length,) = frames.ENVELOPE.unpack_from(call.extra)
            head, data = call.extra[4 : 4 + length], call.extra[4 + length :]
            assert (call.kind, call.body) == (frames.COMPOSE, b'{"x":1}')
            assert json.loads(head) == {"forms": ["png", "json"], "files": [["a", 3], ["b", 3 * MB], ["none", 0]]}
            assert data == b"aaa" + b"b" * 3 * MB
            await worker.send_frame(frames.VALUE, VALUE, call_id=call.call_id)
            assert (await calling).reply == Value(VALUE)


async def test_a_file_that_has_become_shorter_ends_the_sandbox(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, _):
        with tempfile.TemporaryFile() as spooled:
            spooled.write(b"short")
            run = await channel.call(Work(frames.CALL, b"{}", files=(File("a", 50, spooled),)), timeout_s=PATIENCE_S)
        assert isinstance(run.reply, Violation)
        assert not channel.alive()


async def test_files_that_are_never_read_end_at_the_deadline(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, _):
        work = Work(frames.CALL, b"{}", files=(File("a", 50 * MB, b"a" * 50 * MB),))
        calling = asyncio.create_task(channel.call(work, timeout_s=0.1))
        assert (await control.receive()).kind == frames.RESTART
        await runner.worker()
        assert type((await calling).reply).__name__ == "TimedOut"


# --- content of a reply ---


@pytest.mark.parametrize("size", [0, 1, 100, 16 * 1024, 300_000, 2_000_000])
async def test_a_value_in_another_form_arrives_whole(open_tmp_path: Path, size: int) -> None:
    data = bytes(i % 251 for i in range(size))
    async with session(open_tmp_path) as (channel, _, _, worker):
        for _ in range(2):
            calling = start(channel, asking("png", "json"))
            call = await worker.receive()
            sending = asyncio.create_task(worker.send_frame(frames.CONTENT, PNG, call_id=call.call_id, extra=data))
            reply = (await calling).reply
            assert isinstance(reply, InForm)
            assert (reply.form, reply.type, reply.ms, reply.content.size) == ("png", "Figure", 1.5, size)
            assert await whole(reply.content) == data
            await sending


async def test_typed_replies_name_their_files(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        calling = start(channel, asking(frames.TYPED))
        call = await worker.receive()
        extra = envelope(("f0", b"abc"), ("f1", b""), ("f2", b"x" * 100_000))
        await worker.send_frame(frames.VALUE, VALUE, call_id=call.call_id, extra=extra)
        reply = (await calling).reply
        assert isinstance(reply, Typed)
        assert (reply.body, reply.files) == (VALUE, (("f0", 3), ("f1", 0), ("f2", 100_000)))
        assert await whole(reply.content) == b"abc" + b"x" * 100_000


@pytest.mark.parametrize("kind", [frames.VALUE, frames.UNSERIALISABLE])
async def test_a_reply_may_be_plain_though_other_forms_were_asked_for(open_tmp_path: Path, kind: int) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        calling = start(channel, asking("png", frames.TYPED))
        call = await worker.receive()
        await worker.send_frame(kind, VALUE, call_id=call.call_id)
        assert (await calling).reply == (Value(VALUE) if kind == frames.VALUE else NotSerializable(VALUE))


async def test_the_next_call_waits_until_the_content_is_read(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        calling, next_one = start(channel, asking("octets")), start(channel, Work(frames.CALL, b'{"next":1}'))
        call = await worker.receive()
        body = b'{"form":"octets","type":"bytes","ms":0}'
        sending = asyncio.create_task(
            worker.send_frame(frames.CONTENT, body, call_id=call.call_id, extra=b"x" * 2_000_000)
        )
        reply = (await calling).reply
        assert isinstance(reply, InForm)
        receiving = asyncio.create_task(worker.receive())
        assert not (await asyncio.wait([receiving], timeout=0.05))[0]
        assert len(await whole(reply.content)) == 2_000_000
        await sending
        assert (await receiving).body == b'{"next":1}'
        await worker.send_frame(frames.VALUE, VALUE, call_id=(await receiving).call_id)
        assert (await next_one).reply == Value(VALUE)


@pytest.mark.parametrize("how", ["closed", "left in the middle", "caller gone"])
async def test_content_that_nobody_wants_is_dropped_and_the_session_goes_on(open_tmp_path: Path, how: str) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        calling = start(channel, asking("png"))
        call = await worker.receive()
        if how == "caller gone":
            calling.cancel()
        sending = asyncio.create_task(
            worker.send_frame(frames.CONTENT, PNG, call_id=call.call_id, extra=b"x" * 2_000_000)
        )
        if how != "caller gone":
            reply = (await calling).reply
            assert isinstance(reply, InForm)
            if how == "left in the middle":
                await anext(aiter(reply.content))
            await reply.content.aclose()
        await sending
        following = asyncio.create_task(reply_of(channel, b"{}"))
        await worker.send_frame(frames.VALUE, VALUE, call_id=(await worker.receive()).call_id)
        assert await following == Value(VALUE)


async def test_a_caller_that_leaves_in_the_moment_of_the_reply_leaves_no_content_unread(open_tmp_path: Path) -> None:
    class Leaving(Events):
        """Ended between the reply and the moment when its caller sees it."""

        def end(self) -> None:
            calling.cancel()
            super().end()

    async with session(open_tmp_path) as (channel, _, _, worker):
        calling = start(channel, asking("png"), Leaving())
        call = await worker.receive()
        sending = asyncio.create_task(
            worker.send_frame(frames.CONTENT, PNG, call_id=call.call_id, extra=b"x" * 2_000_000)
        )
        await asyncio.wait([calling])
        assert calling.cancelled()
        await asyncio.wait_for(sending, PATIENCE_S)
        following = asyncio.create_task(reply_of(channel, b"{}"))
        await worker.send_frame(frames.VALUE, VALUE, call_id=(await worker.receive()).call_id)
        assert await following == Value(VALUE)


async def test_a_worker_that_ends_in_the_middle_of_content_fails_its_reader_only(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        calling = start(channel, asking("png"))
        call = await worker.receive()
        await worker.send(
            frames.HEADER.pack(frames.CONTENT, b"\0\0\0", len(PNG), 1_000_000, call.call_id) + PNG + b"x" * 9
        )
        reply = (await calling).reply
        assert isinstance(reply, InForm)
        worker.close()
        await control.send_frame(frames.EXITED, b'{"code": null, "signal": 9}')
        with pytest.raises(SandboxLost):
            await whole(reply.content)
        following = asyncio.create_task(reply_of(channel, b"{}"))
        fresh = await runner.worker()
        await fresh.send_frame(frames.VALUE, VALUE, call_id=(await fresh.receive()).call_id)
        assert await following == Value(VALUE)


# --- events ---


async def test_events_are_told_in_their_order_before_the_reply(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        events = Events()
        calling = start(channel, Work(frames.CALL, b"{}", frames.STREAM), events)
        call = await worker.receive()
        assert call.flags == frames.STREAM
        await worker.send_frame(frames.OUTPUT, b'{"stdout":"a"}', call_id=call.call_id)
        await worker.send_frame(frames.ITEM, b'{"index":0,"value":7}', call_id=call.call_id)
        await worker.send_frame(frames.VALUE, VALUE, call_id=call.call_id)
        told = [(event.name, event.body) async for told in events for event in told]
        assert told == [("output", b'{"stdout":"a"}'), ("item", b'{"index":0,"value":7}')]
        assert (await calling).reply == Value(VALUE)


async def test_a_runner_that_tells_more_than_is_read_has_to_wait(open_tmp_path: Path) -> None:
    piece = json.dumps({"stdout": "x" * 60_000}).encode()
    count = 200
    async with session(open_tmp_path) as (channel, _, _, worker):
        events = Events()
        calling = start(channel, Work(frames.CALL, b"{}", frames.STREAM), events)
        call = await worker.receive()

        async def tell() -> None:
            for _ in range(count):
                await worker.send_frame(frames.OUTPUT, piece, call_id=call.call_id)
            await worker.send_frame(frames.VALUE, VALUE, call_id=call.call_id)

        telling = asyncio.create_task(tell())
        assert not (await asyncio.wait([telling], timeout=0.1))[0]
        assert len(events._told) < count / 4
        assert sum([len(told) async for told in events]) == count
        await telling
        assert (await calling).reply == Value(VALUE)


async def test_events_are_counted_by_what_they_take_not_only_by_what_they_hold() -> None:
    events = Events()
    told = 0
    while events.tell(Event("item", b"{}")):
        told += 1
    assert told < 2000  # each takes some 100 bytes here


async def test_events_of_a_call_that_was_not_sent_are_told_by_the_sandbox_it_is_sent_to(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, control, _):
        events = Events()
        running = start(channel, Work(frames.CALL, b"{}"))
        waiting = start(channel, Work(frames.CALL, b"{}", frames.STREAM), events)
        await asyncio.sleep(0)
        control.close()
        assert isinstance((await running).reply, Violation)
        assert (await waiting).reply == Violation("the runner's process is gone", sent=False)
        assert not events.tell(Event("output", b"x" * 1_000_000))  # it would be heard
        events.end()
        assert events.tell(Event("output", b"x" * 1_000_000))
        assert [len(event.body) async for told in events for event in told] == [1_000_000]


async def test_content_that_its_reader_is_slow_with_is_no_fault_of_the_runner(
    open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_STALL_S", PATIENCE_S)
    async with session(open_tmp_path) as (channel, _, _, worker):
        calling = start(channel, asking("png"))
        call = await worker.receive()
        sending = asyncio.create_task(
            worker.send_frame(frames.CONTENT, PNG, call_id=call.call_id, extra=b"x" * 2_000_000)
        )
        reply = (await calling).reply
        assert isinstance(reply, InForm)
        assert isinstance(reply.content, Incoming)
        while not reply.content._paused:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0)
        calls = channel._calls
        assert calls.running is not None
        for _ in range(3):  # so much time has passed: three times the runner is looked at
            calls._look_at_content(calls.running)
        assert len(await whole(reply.content)) == 2_000_000
        await sending
        assert channel.alive()
