"""Races, staged with events: who comes between is let through a door, not waited for."""

import json
from dataclasses import replace

import anyio
import pytest

from orchestrator.errors import SessionExpired, SessionNotFound
from orchestrator.records import Session, SessionState
from orchestrator.sandboxes.replies import Value, Violation
from orchestrator.sessions.stopping import stop_session
from orchestrator.store.memory import MemoryStore
from tests.unit.sessions.conftest import ALICE, World, answered_by
from tests.unit.sessions.fakes import FakeBackend

pytestmark = pytest.mark.anyio


async def test_many_calls_that_find_the_sandbox_dead_start_one(world: World) -> None:
    opened = await world.open()
    (old,) = world.backend.sandboxes
    world.backend.kill(old)
    world.backend.start_gate = anyio.Event()
    answers = []

    async def call() -> None:
        answers.append(await world.call(opened.sessionid))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        world.backend.start_gate.set()
    assert len({answered_by(answer.reply) for answer in answers}) == 1
    assert all(answer.restarted for answer in answers)
    await world.settled()
    assert len(world.backend.sandboxes) == 1


async def test_calls_that_hang_in_a_dying_sandbox_give_it_up_once(world: World) -> None:
    opened = await world.open()
    (old,) = world.backend.sandboxes
    channel = world.backend.channels[old]
    channel.hold = anyio.Event()
    replies = []

    async def call() -> None:
        replies.append((await world.call(opened.sessionid)).reply)

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(call)
        await channel.entered.wait()
        world.backend.kill(old)
    # Of the one that ran nobody knows how far it came; those that waited are run in a fresh sandbox.
    assert [type(reply) for reply in replies] == [Violation, Value, Value]
    await world.settled()
    assert world.backend.stops == 1
    assert not (await world.call(opened.sessionid)).restarted


async def test_a_client_that_leaves_while_its_sandbox_starts_leaves_none_behind(world: World) -> None:
    world.backend.start_gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(world.open)
        await world.backend.start_entered.wait()
        group.cancel_scope.cancel()
    world.backend.start_gate.set()
    await world.settled()
    assert len(world.backend.specs) == 1  # it did start
    assert world.backend.sandboxes == {}
    assert len(world.manager._registry) == 0
    assert await world.manager.list(None) == []


async def test_a_caller_that_leaves_does_not_stop_the_start_that_others_wait_for(world: World) -> None:
    opened = await world.open()
    world.backend.kill(next(iter(world.backend.sandboxes)))
    world.backend.start_gate = anyio.Event()
    world.backend.start_entered = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(world.call, opened.sessionid)
        await world.backend.start_entered.wait()
        group.cancel_scope.cancel()
    async with anyio.create_task_group() as group:
        group.start_soon(world.call, opened.sessionid)
        await anyio.wait_all_tasks_blocked()
        world.backend.start_gate.set()
    await world.settled()
    assert len(world.backend.specs) == 2
    assert len(world.backend.sandboxes) == 1


async def test_a_session_closed_while_its_fresh_sandbox_starts_keeps_none(world: World) -> None:
    opened = await world.open()
    world.backend.kill(next(iter(world.backend.sandboxes)))
    world.backend.start_gate = anyio.Event()
    world.backend.start_entered = anyio.Event()
    refused = []

    async def call() -> None:
        try:
            await world.call(opened.sessionid)
        except SessionNotFound as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await world.backend.start_entered.wait()
        await world.manager.close(opened.sessionid, ALICE)
        world.backend.start_gate.set()
    await world.settled()
    assert len(refused) == 1
    assert world.backend.sandboxes == {}


async def test_a_session_closed_under_a_call_ends_it(world: World) -> None:
    opened = await world.open()
    (sandbox,) = world.backend.sandboxes
    channel = world.backend.channels[sandbox]
    channel.hold = anyio.Event()
    refused = []

    async def call() -> None:
        try:
            await world.call(opened.sessionid)
        except SessionNotFound as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await channel.entered.wait()
        await world.manager.close(opened.sessionid, ALICE)
    assert len(refused) == 1
    assert world.backend.sandboxes == {}


async def test_many_closes_at_once_stop_one_sandbox_once(world: World) -> None:
    opened = await world.open()
    world.backend.stop_gate = anyio.Event()
    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(world.manager.close, opened.sessionid, ALICE)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(SessionNotFound):
            await world.call(opened.sessionid)
        world.backend.stop_gate.set()
    assert world.backend.stops == 1


async def test_a_client_that_leaves_does_not_stop_a_close(world: World) -> None:
    opened = await world.open()
    world.backend.stop_gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(world.manager.close, opened.sessionid, ALICE)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    world.backend.stop_gate.set()
    await world.settled()
    assert world.backend.sandboxes == {}
    assert (await world.stored(opened.session.id)).state is SessionState.CLOSED


async def test_a_session_stopped_by_another_process_takes_no_further_call(world: World) -> None:
    opened = await world.open()
    await world.call(opened.sessionid)
    await stop_session(world.store, world.backend, world.settings.data_dir, opened.session.id)
    with pytest.raises(SessionExpired, match="operator"):
        await world.call(opened.sessionid)
    await world.settled()
    assert world.backend.sandboxes == {}
    assert len(world.manager._registry) == 0
    with pytest.raises(SessionExpired, match="operator"):
        await world.call(opened.sessionid)
    await world.manager.close(opened.sessionid, ALICE)


async def test_a_session_in_a_shared_sandbox_is_left_to_its_server_to_end(world: World) -> None:
    """Another process could only end the whole sandbox, with its neighbours."""
    stored = await world.stored((await world.open()).session.id)
    store, backend = MemoryStore(), FakeBackend()
    await store.add(replace(stored, sandbox={**stored.sandbox, "data": json.dumps({"slot_of": "5" * 32})}))
    stopped = await stop_session(store, backend, world.settings.data_dir, stored.id)
    assert stopped.state is SessionState.CLOSED
    assert backend.stops == 0


async def test_other_sessions_go_on_when_one_is_stopped_by_another_process(world: World) -> None:
    stopped, other = await world.open(), await world.open()
    await stop_session(world.store, world.backend, world.settings.data_dir, stopped.session.id)
    assert not (await world.call(other.sessionid)).restarted


async def test_a_session_stopped_by_another_process_while_it_starts_does_not_open(world: World) -> None:
    world.backend.start_gate = anyio.Event()
    refused = []

    async def attempt() -> None:
        try:
            await world.open()
        except SessionExpired as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(attempt)
        await world.backend.start_entered.wait()
        (record,) = await world.store.list(Session)
        await stop_session(world.store, world.backend, world.settings.data_dir, record.id)
        world.backend.start_gate.set()
    await world.settled()
    assert len(refused) == 1
    assert world.backend.sandboxes == {}
    assert (await world.stored(record.id)).state is SessionState.CLOSED


async def test_stopping_twice_is_success_and_an_unknown_session_is_not_found(world: World) -> None:
    opened = await world.open()
    for _ in range(2):
        record = await stop_session(world.store, world.backend, world.settings.data_dir, opened.session.id)
        assert (record.state, record.reason) == (SessionState.CLOSED, "stopped")
    with pytest.raises(SessionNotFound):
        await stop_session(world.store, world.backend, world.settings.data_dir, "f" * 32)
