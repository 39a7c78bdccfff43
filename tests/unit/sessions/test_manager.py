from dataclasses import replace

import anyio
import pytest

from orchestrator.errors import (
    EngineUnavailable,
    InvalidTransition,
    RateLimited,
    SandboxLost,
    SessionExpired,
    SessionNotFound,
    ShuttingDown,
    StoreBusy,
)
from orchestrator.records import SessionState
from orchestrator.sandboxes.content import Whole, read
from orchestrator.sandboxes.replies import InForm, TimedOut, Value, Violation, WorkerDied
from orchestrator.sessions.machine import SandboxStopped
from tests.unit.sessions.conftest import ALICE, BOB, ENVIRONMENT, OPTIONS, World, answered_by
from tests.unit.sessions.fakes import engine_gone

pytestmark = pytest.mark.anyio


async def test_an_opened_session_answers_calls(world: World) -> None:
    opened = await world.open()
    outcome = await world.call(opened.sessionid, body=b"hello")
    (sandbox,) = world.backend.sandboxes.values()
    assert outcome.reply == Value(f"{sandbox.id}:hello".encode())
    assert not outcome.restarted


async def test_the_record_is_in_the_store_before_the_engine_is_touched(world: World) -> None:
    world.backend.start_gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(world.open)
        await world.backend.start_entered.wait()
        (record,) = await world.manager.list(None)
        assert record.state is SessionState.STARTING
        world.backend.start_gate.set()
    (record,) = await world.manager.list(None)
    assert record.state is SessionState.READY


async def test_the_sandbox_gets_what_was_asked_for_and_is_labelled(world: World) -> None:
    opened = await world.open(options=replace(OPTIONS, network="egress"))
    (sandbox,) = world.backend.of_session(opened.session.id)
    assert world.backend.specs[0].resources == OPTIONS.resources
    assert world.backend.specs[0].network == "egress"
    assert sandbox.labels.keys() >= {"io.kodou.session", "io.kodou.instance"}
    config = world.backend.channels[sandbox.id].config
    assert config is not None
    assert config.env == {"A": "1"}
    assert config.fsize_bytes == 3 * 1024 * 1024


async def test_the_store_holds_enough_to_find_the_sandbox(world: World) -> None:
    opened = await world.open()
    record = await world.stored(opened.session.id)
    assert record.sandbox["id"] in world.backend.sandboxes
    assert record.state is SessionState.READY
    assert opened.session == record


async def test_calls_write_nothing_to_the_store(world: World) -> None:
    opened = await world.open()
    before = await world.stored(opened.session.id)
    for _ in range(3):
        await world.call(opened.sessionid)
    assert await world.stored(opened.session.id) == before


@pytest.mark.parametrize("error", ["start_error", "connect_error", "configure_error"])
async def test_a_failed_start_leaves_nothing(world: World, error: str) -> None:
    setattr(world.backend, error, SandboxLost("it ended"))
    with pytest.raises(SandboxLost):
        await world.open()
    await world.settled()
    assert world.backend.sandboxes == {}
    assert await world.manager.list(None) == []
    assert len(world.manager._registry) == 0


async def test_an_image_that_went_is_worth_another_try(world: World) -> None:
    world.backend.images.gone.add(ENVIRONMENT.id)
    with pytest.raises(SandboxLost):
        await world.open()


async def test_a_store_that_is_full_starts_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(record: object) -> None:
        raise StoreBusy("full")

    monkeypatch.setattr(world.store, "add", full)
    with pytest.raises(StoreBusy):
        await world.open()
    await world.settled()
    assert world.backend.specs == []
    assert len(world.manager._registry) == 0


# --- limits ---


async def test_an_owner_has_a_limit_that_is_not_the_others(world: World) -> None:
    await world.manager.aclose()
    await world.start(max_sessions_per_owner=2)
    first = await world.open()
    await world.open()
    with pytest.raises(RateLimited):
        await world.open()
    await world.open(BOB)
    await world.manager.close(first.sessionid, ALICE)
    await world.open()


async def test_a_burst_does_not_pass_the_limit_of_the_server(world: World) -> None:
    await world.manager.aclose()
    await world.start(max_sessions=3)
    refused = 0

    async def attempt() -> None:
        nonlocal refused
        try:
            await world.open()
        except RateLimited:
            refused += 1

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(attempt)
    assert refused == 7
    assert len(world.backend.sandboxes) == 3


async def test_starts_at_once_are_bounded(world: World) -> None:
    await world.manager.aclose()
    await world.start(max_starts=2)
    world.backend.start_gate = anyio.Event()
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(world.open)
        await anyio.wait_all_tasks_blocked()
        world.backend.start_gate.set()
    assert world.backend.most_starting == 2
    assert len(world.backend.sandboxes) == 8


async def test_calls_that_wait_in_one_session_are_bounded(world: World) -> None:
    await world.manager.aclose()
    await world.start(max_waiting_calls=2)
    opened = await world.open()
    other = await world.open()
    (sandbox,) = world.backend.of_session(opened.session.id)
    channel = world.backend.channels[sandbox.id]
    channel.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(world.call, opened.sessionid)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(RateLimited) as refused:
            await world.call(opened.sessionid)
        assert refused.value.after_s == 1.0
        await world.call(other.sessionid)
        channel.hold.set()
    await world.call(opened.sessionid)


# --- whose ---


async def test_anothers_session_is_as_unknown_as_none(world: World) -> None:
    opened = await world.open()
    await world.call(opened.sessionid)
    texts = set()
    for sessionid in (opened.sessionid, "no.such.token", ""):
        with pytest.raises(SessionNotFound) as refused:
            await world.call(sessionid, BOB)
        texts.add(refused.value.detail)
        with pytest.raises(SessionNotFound) as refused:
            await world.manager.close(sessionid, BOB)
        texts.add(refused.value.detail)
    assert len(texts) == 1
    await world.call(opened.sessionid)


async def test_the_record_decides_whose_it_is_not_the_token(world: World) -> None:
    opened = await world.open()
    forged = world.manager._tokens.session_id(replace(opened.session, owner="bob"))
    with pytest.raises(SessionNotFound):
        await world.call(forged, BOB)
    with pytest.raises(SessionNotFound):
        await world.manager.close(forged, BOB)
    await world.manager.close(opened.sessionid, ALICE)
    with pytest.raises(SessionNotFound):
        await world.manager.close(forged, BOB)


async def test_close_ends_the_sandbox_and_twice_is_success(world: World) -> None:
    opened = await world.open()
    await world.manager.close(opened.sessionid, ALICE)
    assert world.backend.sandboxes == {}
    await world.manager.close(opened.sessionid, ALICE)
    with pytest.raises(SessionNotFound):
        await world.call(opened.sessionid)
    record = await world.stored(opened.session.id)
    assert (record.state, record.reason) == (SessionState.CLOSED, "closed")


async def test_a_token_past_its_time_is_refused_although_it_was_cached(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await world.open()
    await world.call(opened.sessionid)
    later = opened.session.expires_at.timestamp() + 31

    monkeypatch.setattr("time.time", lambda: later)
    with pytest.raises(SessionExpired):
        await world.call(opened.sessionid)
    await world.manager.close(opened.sessionid, ALICE)  # ended already: success


async def test_list_shows_one_owner_or_all_with_the_state_of_now(world: World) -> None:
    mine = await world.open()
    theirs = await world.open(BOB)
    async with world.under_call(mine):
        assert [(found.id, found.state) for found in await world.manager.list("alice")] == [
            (mine.session.id, SessionState.BUSY)
        ]
    assert {found.id for found in await world.manager.list(None)} == {mine.session.id, theirs.session.id}
    assert {found.state for found in await world.manager.list(None)} == {SessionState.READY}


# --- sandboxes that end ---


async def test_a_sandbox_that_misbehaved_is_never_called_again(world: World) -> None:
    reply = Violation("two replies")
    opened = await world.open()
    (old,) = world.backend.sandboxes
    world.backend.channels[old].next_reply = reply
    outcome = await world.call(opened.sessionid)
    assert outcome.reply == reply
    await world.settled()
    assert world.backend.sandboxes == {}
    again = await world.call(opened.sessionid)
    assert again.restarted
    assert answered_by(again.reply) != old
    assert not (await world.call(opened.sessionid)).restarted
    assert len(world.backend.sandboxes) == 1


@pytest.mark.parametrize("reply", [TimedOut(), WorkerDied(None, 9)])
async def test_a_sandbox_whose_worker_was_replaced_is_kept(world: World, reply: TimedOut | WorkerDied) -> None:
    opened = await world.open()
    (old,) = world.backend.sandboxes
    world.backend.channels[old].next_reply = reply
    assert (await world.call(opened.sessionid)).reply == reply
    again = await world.call(opened.sessionid)
    assert not again.restarted
    assert answered_by(again.reply) == old


async def test_a_sandbox_that_died_between_calls_is_replaced_by_the_next(world: World) -> None:
    opened = await world.open()
    (old,) = world.backend.sandboxes
    world.backend.kill(old)
    outcome = await world.call(opened.sessionid)
    assert outcome.restarted
    assert answered_by(outcome.reply) != old
    await world.settled()
    assert old not in world.backend.sandboxes
    assert (await world.stored(opened.session.id)).sandbox["id"] == answered_by(outcome.reply)


async def test_a_fresh_sandbox_that_does_not_start_is_tried_again_by_the_next_call(world: World) -> None:
    opened = await world.open()
    (old,) = world.backend.sandboxes
    world.backend.kill(old)
    world.backend.start_error = engine_gone()
    for _ in range(2):
        with pytest.raises(EngineUnavailable):
            await world.call(opened.sessionid)
    world.backend.start_error = None
    assert (await world.call(opened.sessionid)).restarted


async def test_without_its_image_a_session_that_lost_its_sandbox_is_over(world: World) -> None:
    opened = await world.open()
    (old,) = world.backend.sandboxes
    world.backend.kill(old)
    world.backend.images.gone.add(ENVIRONMENT.id)
    for _ in range(2):
        with pytest.raises(SessionExpired, match="pruned"):
            await world.call(opened.sessionid)
        await world.settled()
    assert world.backend.sandboxes == {}


# --- what the store and the engine refuse ---


async def test_a_full_store_does_not_keep_a_sandbox_alive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = await world.open()

    async def full(record: object, *, expected: int) -> bool:
        raise StoreBusy("full")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "replace", full)
        with pytest.raises(StoreBusy):
            await world.manager.close(opened.sessionid, ALICE)
        assert world.backend.sandboxes == {}
        with pytest.raises(SessionNotFound):
            await world.call(opened.sessionid)
    await world.manager.close(opened.sessionid, ALICE)
    assert (await world.stored(opened.session.id)).state is SessionState.CLOSED
    assert len(world.manager._registry) == 0


async def test_a_close_that_the_engine_refused_is_finished_by_the_next(world: World) -> None:
    opened = await world.open()
    world.backend.stop_error = engine_gone()
    with pytest.raises(EngineUnavailable):
        await world.manager.close(opened.sessionid, ALICE)
    assert (await world.stored(opened.session.id)).state is SessionState.CLOSING
    world.backend.stop_error = None
    await world.manager.close(opened.sessionid, ALICE)
    assert world.backend.sandboxes == {}
    assert (await world.stored(opened.session.id)).state is SessionState.CLOSED


# --- the end ---


async def test_a_drain_waits_for_calls_and_refuses_new_ones(world: World) -> None:
    opened = await world.open()
    (sandbox,) = world.backend.sandboxes
    channel = world.backend.channels[sandbox]
    channel.hold = anyio.Event()
    drained = anyio.Event()

    async def drain() -> None:
        await world.manager.drain(30)
        drained.set()

    async with anyio.create_task_group() as group:
        group.start_soon(world.call, opened.sessionid)
        await channel.entered.wait()
        group.start_soon(drain)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ShuttingDown):
            await world.call(opened.sessionid)
        with pytest.raises(ShuttingDown):
            await world.open()
        assert not drained.is_set()
        channel.hold.set()
        await drained.wait()


async def test_a_drain_ends_at_its_deadline(world: World) -> None:
    opened = await world.open()
    (sandbox,) = world.backend.sandboxes
    channel = world.backend.channels[sandbox]
    channel.hold = anyio.Event()
    ended: list[BaseException] = []

    async def call() -> None:
        try:
            await world.call(opened.sessionid)
        except ShuttingDown as error:
            ended.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await channel.entered.wait()
        await world.manager.drain(0.01)
        await world.manager.aclose()
    assert len(ended) == 1
    assert sandbox in world.backend.running


async def test_sandboxes_are_kept_for_the_next_server_or_not_as_settings_say(world: World) -> None:
    await world.open()
    await world.manager.aclose()
    assert len(world.backend.running) == 1
    await world.start(keep_sessions=False)
    await world.manager.drain(1)
    await world.manager.aclose()
    assert world.backend.sandboxes == {}
    assert await world.manager.list(None) == []


async def test_an_event_out_of_order_is_a_defect_that_changes_nothing(world: World) -> None:
    opened = await world.open()
    live = world.manager._registry.get(opened.session.id)
    assert live is not None
    with pytest.raises(InvalidTransition):
        live.apply(SandboxStopped())
    await world.call(opened.sessionid)


async def test_a_session_is_in_use_until_its_value_is_read(world: World) -> None:
    opened = await world.open()
    (sandbox,) = world.backend.sandboxes
    world.backend.channels[sandbox].next_reply = InForm("png", "", 0.0, Whole(b"png"))
    outcome = await world.call(opened.sessionid)
    (live,) = world.manager._registry
    assert isinstance(outcome.reply, InForm)
    assert live.idle_s() == 0.0
    assert live.state is SessionState.BUSY
    assert await read(outcome.reply.content, limit_bytes=10) == b"png"
    await outcome.reply.content.aclose()
    assert live.calls == 0
    assert live.state is SessionState.READY
