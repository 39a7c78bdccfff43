"""The channel with a runner that keeps the protocol: turns, deadlines, workers that come and go, taking up again."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from runner import frames

from orchestrator.errors import SandboxLost
from orchestrator.sandboxes import calls as calls_module
from orchestrator.sandboxes import socket_channel
from orchestrator.sandboxes.channel import RunnerConfig
from orchestrator.sandboxes.link import Link
from orchestrator.sandboxes.replies import (
    NotSerializable,
    Raised,
    RefusedCall,
    Reply,
    TimedOut,
    Value,
    Violation,
    WorkerDied,
)
from orchestrator.sandboxes.socket_channel import SocketChannel, greet
from orchestrator.sandboxes.work import Work
from tests.security.fake_runner import CONFIG, PATIENCE_S, VALUE, Connection, FakeRunner, fake_runner, reply_of, session

pytestmark = pytest.mark.anyio

SLACK_S = 0.25  # what the contract allows past a deadline
NEVER_S = 600.0
EXITED_9 = b'{"code": null, "signal": 9}'


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def start(channel: SocketChannel, body: bytes = b"{}", timeout_s: float = PATIENCE_S) -> asyncio.Task[Reply]:
    return asyncio.create_task(reply_of(channel, body, timeout_s=timeout_s))


async def answer(worker: Connection, body: bytes = VALUE, kind: int = frames.VALUE) -> frames.Frame:
    """Take the next call and reply to it."""
    call = await worker.receive()
    await worker.send_frame(kind, body, call_id=call.call_id)
    return call


# --- calls and replies ---


async def test_the_call_and_its_reply_pass_as_they_are(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        calling = asyncio.create_task(reply_of(channel, b'{"namepath": "x"}', flags=1, timeout_s=PATIENCE_S))
        call = await answer(worker)
        assert (call.kind, call.flags, call.body) == (frames.CALL, 1, b'{"namepath": "x"}')
        assert await calling == Value(VALUE)


@pytest.mark.parametrize(
    ("kind", "body", "reply"),
    [
        (frames.RAISED, b'{"error":true}', Raised(b'{"error":true}')),
        (frames.UNSERIALISABLE, b'{"error":true}', NotSerializable(b'{"error":true}')),
        (frames.VALUE, '{"value":"é"}'.encode(), Value('{"value":"é"}'.encode())),
        (
            frames.REFUSED,
            b'{"code":"name_not_found","detail":"no nump"}',
            RefusedCall("name_not_found", "no nump", None),
        ),
        (
            frames.REFUSED,
            json.dumps({"code": "not_callable", "detail": "d" * 9999, "field": "f" * 999}).encode(),
            RefusedCall("not_callable", "d" * 4096, "f" * 200),
        ),
    ],
)
async def test_each_kind_of_reply(open_tmp_path: Path, kind: int, body: bytes, reply: Reply) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        calling = start(channel)
        await answer(worker, body, kind)
        assert await calling == reply
        assert channel.alive()


@pytest.mark.parametrize("size", [1, 16_340, 16_400, 1_000_000, 5_000_000])
async def test_bodies_of_any_size_pass_both_ways(open_tmp_path: Path, size: int) -> None:
    config = RunnerConfig({}, 10_000_000, 0, 1, 1, 1)
    async with session(open_tmp_path, config) as (channel, _, _, worker):
        body = json.dumps({"value": "x" * size}).encode()
        for _ in range(2):
            calling = start(channel, body)
            assert (await answer(worker, body)).body == body
            assert await calling == Value(body)


async def test_a_reply_may_come_in_any_pieces(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        for cut in range(1, 50):
            calling = start(channel)
            call = await worker.receive()
            reply = frames.encode(frames.VALUE, VALUE, call_id=call.call_id)
            for piece in (reply[:cut], reply[cut:]):
                await worker.send(piece)
                await asyncio.sleep(0)
            assert await calling == Value(VALUE)


async def test_configure_sends_everything_the_runner_is_told(open_tmp_path: Path) -> None:
    async with fake_runner(open_tmp_path) as (link, runner):
        connecting = asyncio.create_task(runner.supervisor())
        channel = await greet(link, PATIENCE_S)
        configuring = asyncio.create_task(channel.configure(CONFIG, timeout_s=PATIENCE_S))
        control = await connecting
        frame = await control.receive()
        assert frame.kind == frames.CONFIG
        assert json.loads(frame.body) == {
            "env": {"GREETING": "hello"},
            "max_reply_bytes": 1_000_000,
            "max_output_bytes": 1000,
            "max_items": 1000,
            "orphan_s": 600,
            "fsize_bytes": 1_000_000,
            "max_content_bytes": 2_000_000,
            "max_references": 5,
            "max_reference_bytes": 4_000_000,
            "first": True,
            "egress": False,
        }
        assert not configuring.done()
        await runner.worker()
        await configuring
        await channel.aclose()


# --- turns ---


async def test_calls_run_one_at_a_time_in_order_of_arrival(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        callings = [start(channel, str(n).encode()) for n in range(20)]
        for n, calling in enumerate(callings):
            call = await worker.receive()
            assert call.body == str(n).encode()
            assert len(worker.reader._buffer) == 0  # type: ignore[attr-defined]  # the next one waits
            await worker.send_frame(frames.VALUE, b'{"value":%d}' % n, call_id=call.call_id)
            assert await calling == Value(b'{"value":%d}' % n)


async def test_a_timeout_runs_from_the_calls_turn(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        first, second = start(channel), start(channel, b"2", timeout_s=0.1)
        call = await worker.receive()
        await asyncio.sleep(0.2)
        assert not second.done()
        await worker.send_frame(frames.VALUE, VALUE, call_id=call.call_id)
        assert await first == Value(VALUE)
        assert (await worker.receive()).body == b"2"


async def test_a_caller_cancelled_while_waiting_leaves_no_trace(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        first, second, third = start(channel, b"1"), start(channel, b"2"), start(channel, b"3")
        await asyncio.sleep(0)
        second.cancel()
        assert (await answer(worker)).body == b"1"
        assert (await answer(worker)).body == b"3"
        assert [await first, await third] == [Value(VALUE), Value(VALUE)]
        assert second.cancelled()


async def test_a_caller_cancelled_while_running_does_not_let_the_next_one_in_early(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        first = start(channel, b"1")
        running = await worker.receive()
        second = start(channel, b"2")
        first.cancel()
        await asyncio.sleep(0.02)
        assert len(worker.reader._buffer) == 0  # type: ignore[attr-defined]
        await worker.send_frame(frames.VALUE, b'{"value":"of nobody"}', call_id=running.call_id)
        assert (await answer(worker)).body == b"2"
        assert await second == Value(VALUE)


async def test_a_cancelled_callers_call_ends_at_its_deadline(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        first = start(channel, timeout_s=0.05)
        await worker.receive()
        second = start(channel)
        first.cancel()
        assert (await control.receive()).kind == frames.RESTART
        await answer(await runner.worker())
        assert await second == Value(VALUE)


# --- deadlines ---


async def test_at_the_deadline_a_fresh_worker_makes_a_clean_timeout(
    open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_RESTART_S", NEVER_S)  # so it is the worker that ends the call
    async with session(open_tmp_path) as (channel, runner, control, worker):
        began = time.monotonic()
        calling = start(channel, timeout_s=0.1)
        await worker.receive()
        assert (await control.receive()).kind == frames.RESTART
        assert time.monotonic() - began >= 0.099
        await worker.closed_by_peer()
        fresh = await runner.worker()
        assert await calling == TimedOut()
        calling = start(channel)
        await answer(fresh)
        assert await calling == Value(VALUE)


async def test_a_timeout_tells_the_place_that_the_supervisor_reports(
    open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_RESTART_S", NEVER_S)
    async with session(open_tmp_path) as (channel, runner, control, worker):
        calling = start(channel, timeout_s=0.1)
        await worker.receive()
        assert (await control.receive()).kind == frames.RESTART
        await control.send_frame(frames.EXITED, b'{"code": null, "signal": null, "stage": 2, "item": 17}')
        fresh = await runner.worker()
        assert await calling == TimedOut({"stage": 2, "item": 17})
        calling = start(channel)
        await answer(fresh)
        assert await calling == Value(VALUE)


async def test_a_timeout_tells_the_place_where_the_fresh_worker_is_late_as_well(
    open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_RESTART_S", NEVER_S)
    async with session(open_tmp_path) as (channel, _, control, worker):
        calling = start(channel, timeout_s=0.1)
        await worker.receive()
        assert (await control.receive()).kind == frames.RESTART
        await control.send_frame(frames.EXITED, b'{"stage": 0}')
        running = channel._calls.running
        assert running is not None
        async with asyncio.timeout(PATIENCE_S):
            while running.exited is None:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0)
        assert running.step is not None
        running.step(running)  # what is done when it is late
        assert await calling == TimedOut({"stage": 0})


async def test_a_fresh_worker_that_is_late_costs_neither_the_reply_nor_the_session(
    open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calls_module._RESTART_S < SLACK_S
    monkeypatch.setattr(calls_module, "_LATE_S", NEVER_S)
    async with session(open_tmp_path) as (channel, runner, control, worker):
        running, waiting = start(channel, timeout_s=0.1), start(channel)
        await worker.receive()
        assert await running == TimedOut()
        assert (await control.receive()).kind == frames.RESTART
        await answer(await runner.worker())
        assert await waiting == Value(VALUE)


async def test_no_fresh_worker_at_all_gives_the_sandbox_up(
    open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_LATE_S", 0.1)
    async with session(open_tmp_path) as (channel, _, _, worker):
        running, waiting = start(channel, timeout_s=0.1), start(channel)
        await worker.receive()
        assert await running == TimedOut()
        reply = await waiting
        assert isinstance(reply, Violation)
        assert not reply.sent
        assert not channel.alive()


async def test_a_body_that_is_never_read_ends_at_the_deadline(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, _):
        calling = start(channel, b"x" * 5_000_000, timeout_s=0.1)
        assert (await control.receive()).kind == frames.RESTART
        await runner.worker()
        assert await calling == TimedOut()


# --- workers that die ---


async def test_an_end_reported_after_its_connection_ended(open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_EXITED_S", NEVER_S)
    async with session(open_tmp_path) as (channel, runner, control, worker):
        calling = start(channel)
        await worker.receive()
        worker.close()
        await control.send_frame(frames.EXITED, b'{"code": 3, "signal": null}')
        assert await calling == WorkerDied(3, None)
        following = start(channel)  # waits for the fresh worker
        await answer(await runner.worker())
        assert await following == Value(VALUE)


async def test_an_end_is_told_with_the_place_that_is_reported(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        for after in (False, True):
            calling = start(channel)
            await worker.receive()
            if after:
                worker.close()
            await control.send_frame(frames.EXITED, b'{"code": 3, "signal": null, "item": 1}')
            assert await calling == WorkerDied(3, None, {"item": 1})
            worker = await runner.worker()


async def test_an_end_reported_while_a_child_keeps_its_connection_open(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        calling = start(channel)
        await worker.receive()
        await control.send_frame(frames.EXITED, EXITED_9)
        assert await asyncio.wait_for(calling, PATIENCE_S / 2) == WorkerDied(None, 9)
        await worker.closed_by_peer()
        following = start(channel)
        await answer(await runner.worker())
        assert await following == Value(VALUE)


async def test_what_a_worker_said_before_it_died_counts(open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_LAST_WORDS_S", NEVER_S)
    async with session(open_tmp_path) as (channel, _, control, worker):
        calling = start(channel)
        call = await worker.receive()
        await control.send_frame(frames.EXITED, EXITED_9)
        await worker.send_frame(frames.VALUE, VALUE, call_id=call.call_id)
        worker.close()
        assert await calling == Value(VALUE)
        assert channel.alive()


async def test_a_worker_that_ended_by_itself_at_the_deadline_is_told_from_the_one_that_takes_the_next_call(
    open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "_RESTART_S", NEVER_S)
    async with session(open_tmp_path) as (channel, runner, control, worker):
        for ends in range(2):
            overdue = start(channel, timeout_s=0.05)
            await worker.receive()
            restart = await control.receive()
            assert (restart.kind, json.loads(restart.body)) == (frames.RESTART, {"ends": ends})
            # It was on its way: to the supervisor this worker is gone.
            await control.send_frame(frames.EXITED, EXITED_9)
            worker = await runner.worker()
            assert isinstance(await overdue, TimedOut)
            following = start(channel)
            await answer(worker)
            assert await following == Value(VALUE)


async def test_an_end_that_nobody_reports_is_made_sure_of(open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_EXITED_S", 0.05)
    async with session(open_tmp_path) as (channel, runner, control, worker):
        calling = start(channel)
        await worker.receive()
        worker.close()
        assert (await control.receive()).kind == frames.RESTART
        assert await calling == WorkerDied(None, None)
        following = start(channel)
        await answer(await runner.worker())
        assert await following == Value(VALUE)


async def test_a_worker_that_dies_between_calls_is_replaced_unnoticed(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        await control.send_frame(frames.EXITED, EXITED_9)
        await worker.closed_by_peer()
        calling = start(channel)
        await answer(await runner.worker())
        assert await calling == Value(VALUE)


async def test_a_worker_that_lost_its_connection_may_come_again(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, _, worker):
        worker.close()
        again = await runner.worker(generation=1)
        calling = start(channel)
        await answer(again)
        assert await calling == Value(VALUE)


async def test_a_worker_that_never_comes_is_a_violation(open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "_WORKER_S", 0.05)
    async with session(open_tmp_path) as (channel, _, control, worker):
        await control.send_frame(frames.EXITED, EXITED_9)
        await worker.closed_by_peer()
        assert isinstance(await start(channel, timeout_s=0.05), Violation)
        assert not channel.alive()


async def test_a_caller_cancelled_while_no_worker_is_there_is_never_sent(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, runner, control, worker):
        await control.send_frame(frames.EXITED, EXITED_9)
        await worker.closed_by_peer()
        first, second = start(channel, b"1"), start(channel, b"2")
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        assert (await answer(await runner.worker())).body == b"2"
        assert await second == Value(VALUE)


async def test_the_end_of_the_runner_ends_all_calls(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, control, worker):
        running, waiting = start(channel), start(channel)
        await worker.receive()
        assert channel.alive()
        worker.close()
        control.close()
        assert isinstance(await asyncio.wait_for(running, PATIENCE_S / 2), Violation)
        assert isinstance(await asyncio.wait_for(waiting, PATIENCE_S / 2), Violation)
        assert not channel.alive()


# --- greeting, closing, taking up again ---


async def test_no_greeting_in_time_is_a_lost_sandbox(open_tmp_path: Path) -> None:
    async with fake_runner(open_tmp_path) as (link, _):
        with pytest.raises(SandboxLost, match="did not connect"):
            await greet(link, 0.05)


async def test_no_worker_in_time_is_a_lost_sandbox(open_tmp_path: Path) -> None:
    async with fake_runner(open_tmp_path) as (link, runner):
        connecting = asyncio.create_task(runner.supervisor())
        channel = await greet(link, PATIENCE_S)
        await connecting
        with pytest.raises(SandboxLost, match="no worker"):
            await channel.configure(CONFIG, timeout_s=0.05)
        await channel.aclose()


async def test_a_runner_that_ends_during_configure_is_a_lost_sandbox(open_tmp_path: Path) -> None:
    async with fake_runner(open_tmp_path) as (link, runner):
        connecting = asyncio.create_task(runner.supervisor())
        channel = await greet(link, PATIENCE_S)
        (await connecting).close()
        for _ in range(2):
            with pytest.raises(SandboxLost):
                await channel.configure(CONFIG, timeout_s=PATIENCE_S)
        await channel.aclose()


async def test_closing_may_happen_twice_and_ends_what_runs(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, control, worker):
        calling = start(channel)
        await worker.receive()
        await channel.aclose()
        await channel.aclose()
        assert isinstance(await calling, Violation)
        assert not channel.alive()
        await control.closed_by_peer()
        await worker.closed_by_peer()


async def reopened(runner: FakeRunner, run_dir: Path, *, worker_first: bool) -> tuple[SocketChannel, Connection]:
    link = Link.reopen(run_dir, "0" * 32)
    worker = await runner.worker(generation=5) if worker_first else None
    connecting = asyncio.create_task(runner.supervisor())
    channel = await greet(link, PATIENCE_S)
    await connecting
    return channel, worker or await runner.worker(generation=5)


@pytest.mark.parametrize("worker_first", [True, False])
async def test_a_runner_is_taken_up_again_with_its_worker(open_tmp_path: Path, worker_first: bool) -> None:
    async with fake_runner(open_tmp_path) as (first_link, runner):
        first_link.close()
        channel, worker = await reopened(runner, open_tmp_path, worker_first=worker_first)
        await channel.configure(CONFIG, timeout_s=PATIENCE_S)
        calling = start(channel)
        await answer(worker)
        assert await calling == Value(VALUE)
        await channel.aclose()


async def test_a_worker_that_a_former_server_left_busy_is_replaced(
    open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_channel, "_ADOPTION_S", 0.05)
    async with fake_runner(open_tmp_path) as (first_link, runner):
        first_link.close()
        link = Link.reopen(open_tmp_path, "0" * 32)
        connecting = asyncio.create_task(runner.supervisor())
        channel = await greet(link, PATIENCE_S)
        control = await connecting
        configuring = asyncio.create_task(channel.configure(CONFIG, timeout_s=PATIENCE_S))
        assert [(await control.receive()).kind for _ in range(2)] == [frames.CONFIG, frames.RESTART]
        fresh = await runner.worker(generation=8)
        await configuring
        calling = start(channel)
        await answer(fresh)
        assert await calling == Value(VALUE)
        await channel.aclose()


async def test_a_call_whose_time_is_over_before_its_turn_is_not_begun(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        running = start(channel)
        late = asyncio.create_task(
            channel.call(
                Work(frames.CALL, b'{"late":1}'), timeout_s=PATIENCE_S, until=asyncio.get_running_loop().time()
            )
        )
        following = start(channel, b'{"following":1}')
        await answer(worker)
        assert await running == Value(VALUE)
        assert (await late).reply == TimedOut(restarted=False, begun=False)
        assert (await answer(worker)).body == b'{"following":1}'
        assert await following == Value(VALUE)


async def test_a_call_whose_time_ends_while_it_waits_is_told_so_at_once(open_tmp_path: Path) -> None:
    async with session(open_tmp_path) as (channel, _, _, worker):
        running = start(channel)
        await asyncio.sleep(0)  # it has begun
        until = asyncio.get_running_loop().time() + 0.05
        late = await channel.call(Work(frames.CALL, b'{"late":1}'), timeout_s=PATIENCE_S, until=until)
        assert late.reply == TimedOut(restarted=False, begun=False)
        assert not running.done()
        await answer(worker)
        assert await running == Value(VALUE)
