"""Idle sandboxes freeze, and calls have them thaw: in order, once, in bounded time, whatever comes between."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from orchestrator.errors import EngineUnavailable, SandboxLost, SessionNotFound
from orchestrator.sandboxes.replies import Value
from orchestrator.sessions import freezing
from orchestrator.settings import Settings
from orchestrator.telemetry import FROZEN_SANDBOXES
from tests.unit.sessions.conftest import ALICE, World, answered_by

pytestmark = pytest.mark.anyio
AT_ONCE_IDLE_S = 1e-9


@pytest.fixture
async def cold(tmp_path: Path) -> AsyncIterator[World]:
    """A server that freezes with the first look of the reaper."""
    made = World(Settings(data_dir=tmp_path, reap_interval_s=3600, freeze_idle_s=AT_ONCE_IDLE_S))
    await made.start()
    yield made
    for manager in made.managers:
        await manager.aclose()


async def frozen(world: World) -> tuple[str, str]:
    """A session whose sandbox is frozen; its token, and the sandbox."""
    opened = await world.open()
    await world.reap()
    (sandbox,) = world.backend.frozen
    return opened.sessionid, sandbox


async def test_an_idle_sandbox_freezes_and_thaws_for_the_next_call(cold: World) -> None:
    sessionid, sandbox = await frozen(cold)
    assert FROZEN_SANDBOXES._value.get() == 1
    outcome = await cold.call(sessionid)
    assert (answered_by(outcome.reply), outcome.restarted) == (sandbox, False)
    assert outcome.thawed_s > 0
    assert FROZEN_SANDBOXES._value.get() == 0
    again = await cold.call(sessionid)
    assert (again.thawed_s, cold.backend.thaws) == (0, 1)
    await cold.reap()
    assert cold.backend.frozen == {sandbox}


async def test_none_freezes_unless_it_is_set(world: World) -> None:
    await world.open()
    await world.reap()
    assert world.backend.frozen == set()


async def test_none_freezes_under_a_call(cold: World) -> None:
    async with cold.under_call(await cold.open()):
        await cold.reap()
        assert cold.backend.frozen == set()


async def test_a_call_that_comes_while_its_sandbox_freezes_is_answered_by_it(cold: World) -> None:
    opened = await cold.open()
    (sandbox,) = cold.backend.sandboxes
    cold.backend.freeze_gate = anyio.Event()
    await cold.manager._reaper.reap()
    await cold.backend.freeze_entered.wait()
    calling = asyncio.create_task(cold.call(opened.sessionid))
    await anyio.wait_all_tasks_blocked()
    assert not calling.done()
    cold.backend.freeze_gate.set()
    assert answered_by((await calling).reply) == sandbox
    assert cold.backend.thaws == 1


async def test_calls_that_come_during_a_thaw_share_it_and_keep_their_order(cold: World) -> None:
    sessionid, _ = await frozen(cold)
    cold.backend.thaw_gate = anyio.Event()
    answered: list[bytes] = []

    async def call(body: bytes) -> None:
        reply = (await cold.call(sessionid, body=body)).reply
        assert isinstance(reply, Value)
        answered.append(reply.body.partition(b":")[2])

    async with anyio.create_task_group() as group:
        for body in (b"1", b"2", b"3"):
            group.start_soon(call, body)
        await anyio.wait_all_tasks_blocked()
        cold.backend.thaw_gate.set()
        for body in (b"4", b"5", b"6"):  # some of them while those above are on their way out of the door
            group.start_soon(call, body)
            await asyncio.sleep(0)
    assert answered == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert cold.backend.thaws == 1


async def test_a_caller_that_leaves_does_not_stop_the_thaw(cold: World) -> None:
    sessionid, sandbox = await frozen(cold)
    cold.backend.thaw_gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(cold.call, sessionid)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    cold.backend.thaw_gate.set()
    await cold.settled()
    assert cold.backend.frozen == set()
    outcome = await cold.call(sessionid)
    assert (answered_by(outcome.reply), outcome.thawed_s) == (sandbox, 0)


async def test_one_that_froze_though_the_engine_says_otherwise_thaws_all_the_same(cold: World) -> None:
    cold.backend.freeze_error = EngineUnavailable("no answer")
    sessionid, sandbox = await frozen(cold)
    assert answered_by((await cold.call(sessionid)).reply) == sandbox


async def test_one_that_cannot_be_frozen_runs_on_and_is_tried_once(cold: World) -> None:
    cold.backend.freezes = False
    opened = await cold.open()
    await cold.reap()
    cold.backend.freeze_entered = anyio.Event()
    await cold.reap()
    assert not cold.backend.freeze_entered.is_set()
    assert FROZEN_SANDBOXES._value.get() == 0
    assert (await cold.call(opened.sessionid)).thawed_s == 0
    assert cold.backend.thaws == 0
    await cold.reap()
    assert cold.backend.freeze_entered.is_set()


@pytest.mark.parametrize("error", [EngineUnavailable("no answer"), SandboxLost("it has ended")])
async def test_one_that_does_not_thaw_is_given_up_for_a_fresh_one(cold: World, error: EngineUnavailable) -> None:
    sessionid, old = await frozen(cold)
    cold.backend.thaw_error = error
    outcome = await cold.call(sessionid)
    assert outcome.restarted
    assert answered_by(outcome.reply) != old
    await cold.settled()
    assert old not in cold.backend.sandboxes
    assert len(cold.backend.sandboxes) == 1


async def test_a_thaw_that_hangs_costs_the_sandbox_and_not_the_call(
    cold: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "THAW_S", 0.05)
    sessionid, old = await frozen(cold)
    cold.backend.thaw_gate = anyio.Event()
    assert answered_by((await cold.call(sessionid)).reply) != old


async def test_a_freeze_that_hangs_costs_the_sandbox_and_not_the_call(
    cold: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "THAW_S", 0.05)
    opened = await cold.open()
    (old,) = cold.backend.sandboxes
    cold.backend.freeze_gate = anyio.Event()
    await cold.manager._reaper.reap()
    await cold.backend.freeze_entered.wait()
    assert answered_by((await cold.call(opened.sessionid)).reply) != old
    cold.backend.freeze_gate.set()
    await cold.settled()


async def test_one_that_ends_while_it_is_frozen_is_replaced_without_a_thaw(cold: World) -> None:
    sessionid, old = await frozen(cold)
    cold.backend.kill(old)
    outcome = await cold.call(sessionid)
    assert (outcome.restarted, cold.backend.thaws) == (True, 0)
    assert answered_by(outcome.reply) != old


async def test_a_frozen_session_closes_while_a_call_waits_for_its_thaw(cold: World) -> None:
    sessionid, _ = await frozen(cold)
    cold.backend.thaw_gate = anyio.Event()
    calling = asyncio.create_task(cold.call(sessionid))
    await anyio.wait_all_tasks_blocked()
    await cold.manager.close(sessionid, ALICE)
    cold.backend.thaw_gate.set()
    with pytest.raises(SessionNotFound):
        await calling
    assert cold.backend.sandboxes == {}


async def test_a_frozen_session_idles_out(cold: World) -> None:
    await frozen(cold)
    (live,) = cold.manager._registry
    live.last_used -= live.record.ttl_s
    await cold.reap()
    assert cold.backend.sandboxes == {}
    assert FROZEN_SANDBOXES._value.get() == 0


async def test_a_server_that_stops_leaves_none_frozen(cold: World) -> None:
    sessionid, sandbox = await frozen(cold)
    await cold.manager.drain(1)
    await cold.manager.aclose()
    assert cold.backend.frozen == set()
    await cold.start()
    assert answered_by((await cold.call(sessionid)).reply) == sandbox


async def test_what_a_crash_left_frozen_is_taken_up(cold: World) -> None:
    sessionid, sandbox = await frozen(cold)
    await cold.crash()
    assert cold.backend.frozen == {sandbox}
    await cold.start()
    assert cold.backend.frozen == set()
    assert answered_by((await cold.call(sessionid)).reply) == sandbox
