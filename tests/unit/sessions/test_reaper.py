import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from orchestrator.errors import SessionExpired, StoreBusy
from orchestrator.records import Session, SessionState
from orchestrator.sandboxes.backend import SandboxSpec
from orchestrator.sessions import reaper
from orchestrator.sessions.live import LiveSession
from orchestrator.sessions.manager import Opened
from tests.unit.sessions.conftest import ENVIRONMENT, NOW, OPTIONS, World
from tests.unit.sessions.fakes import engine_gone, image

pytestmark = pytest.mark.anyio


def live(world: World, opened: Opened) -> LiveSession:
    found = world.manager._registry.get(opened.session.id)
    assert found is not None
    return found


async def test_a_session_idle_for_its_ttl_is_ended_and_the_client_told(world: World) -> None:
    opened, used = await world.open(), await world.open()
    live(world, opened).last_used -= 61
    live(world, used).last_used -= 59
    await world.reap()
    assert [found.id for found in await world.manager.list(None)] == [used.session.id]
    assert world.backend.of_session(opened.session.id) == []
    with pytest.raises(SessionExpired, match="idle"):
        await world.call(opened.sessionid)


async def test_a_call_counts_as_use(world: World) -> None:
    opened = await world.open()
    live(world, opened).last_used -= 61
    await world.call(opened.sessionid)
    await world.reap()
    await world.call(opened.sessionid)


async def test_a_session_is_not_idle_while_a_call_runs(world: World) -> None:
    opened = await world.open()
    (sandbox,) = world.backend.sandboxes
    async with world.under_call(opened):
        live(world, opened).last_used -= 1000
        await world.reap()
        assert sandbox in world.backend.running


async def test_a_jump_of_the_wall_clock_ends_no_session(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = await world.open()
    jumped = time.time() + 3600
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: jumped)
        await world.reap()
        await world.call(opened.sessionid)
    await world.call(opened.sessionid)


async def test_a_session_past_its_greatest_age_is_ended(world: World) -> None:
    opened = await world.open()
    live(world, opened).expires = time.time() - 1
    await world.reap()
    assert world.backend.sandboxes == {}
    assert (await world.stored(opened.session.id)).reason == "expired"


async def test_when_a_session_was_last_used_reaches_the_store(world: World) -> None:
    opened = await world.open()
    before = await world.stored(opened.session.id)
    found = live(world, opened)
    found.record = replace(found.record, last_used_at=found.record.last_used_at - timedelta(seconds=60))
    await world.reap()
    after = await world.stored(opened.session.id)
    # Each is told from the idle time by another clock, to a few microseconds.
    assert after.last_used_at > before.last_used_at - timedelta(milliseconds=1)
    assert after.revision == before.revision + 1
    await world.reap()
    assert await world.stored(opened.session.id) == after


async def test_a_close_that_failed_is_tried_again(world: World) -> None:
    opened = await world.open()
    live(world, opened).last_used -= 61
    world.backend.stop_error = engine_gone()
    await world.reap()
    assert len(world.manager._registry) == 1
    world.backend.stop_error = None
    await world.reap()
    assert world.backend.sandboxes == {}
    assert (await world.stored(opened.session.id)).state is SessionState.CLOSED


async def test_a_lost_sandbox_that_could_not_be_stopped_is_tried_again(world: World) -> None:
    opened = await world.open()
    (old,) = world.backend.sandboxes
    world.backend.kill(old)
    world.backend.stop_error = engine_gone()
    await world.call(opened.sessionid)
    await world.settled()
    assert old in world.backend.sandboxes
    world.backend.stop_error = None
    await world.reap()
    assert old not in world.backend.sandboxes
    assert len(world.backend.sandboxes) == 1


async def test_a_failing_step_keeps_nothing_else_from_being_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = await world.open()
    live(world, opened).last_used -= 61

    async def busy() -> None:
        raise StoreBusy("locked")

    def broken() -> None:
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(world.manager._watch, "catch_up", busy)
    monkeypatch.setattr(world.manager._freezer, "tend", broken)
    monkeypatch.setattr(world.manager._sandboxes.pool, "tend", broken)
    world.manager._reaper._last_swept -= 3600
    leftover = await world.backend.start(
        image(ENVIRONMENT.id),
        SandboxSpec(OPTIONS.resources),
        labels={"io.kodou.session": "e" * 32, "io.kodou.instance": world.manager._sandboxes.instance},
    )
    await world.reap()
    assert world.backend.of_session(opened.session.id) == []
    assert leftover.id not in world.backend.sandboxes


async def test_a_dead_sandbox_is_left_for_the_next_call_to_replace(world: World) -> None:
    opened = await world.open()
    world.backend.kill(next(iter(world.backend.sandboxes)))
    await world.reap()
    assert (await world.call(opened.sessionid)).restarted


async def test_a_session_closed_elsewhere_without_a_sign_is_found_by_comparing(world: World) -> None:
    opened = await world.open()
    record = await world.stored(opened.session.id)
    assert await world.store.replace(replace(record, state=SessionState.CLOSING), expected=record.revision)
    await world.manager._watch.compare()
    await world.settled()
    assert world.backend.sandboxes == {}
    assert (await world.stored(opened.session.id)).state is SessionState.CLOSED


async def test_a_record_that_nobody_holds_is_closed(world: World) -> None:
    opened = await world.open()
    record = await world.stored(opened.session.id)
    await world.store.add(replace(record, id="e" * 32, revision=0, sandbox={"instance": record.sandbox["instance"]}))
    await world.manager._watch.compare()
    assert (await world.stored("e" * 32)).state is SessionState.CLOSED
    await world.call(opened.sessionid)


async def test_a_sandbox_that_no_session_has_is_swept_and_the_others_are_not(world: World) -> None:
    opened = await world.open()
    labels = {"io.kodou.session": "e" * 32, "io.kodou.instance": world.manager._sandboxes.instance}
    orphan = await world.backend.start(image(ENVIRONMENT.id), SandboxSpec(OPTIONS.resources), labels=labels)
    second = {**labels, "io.kodou.session": opened.session.id}
    double = await world.backend.start(image(ENVIRONMENT.id), SandboxSpec(OPTIONS.resources), labels=second)
    await world.manager._reaper.sweep()
    assert not {orphan.id, double.id} & world.backend.running
    assert not (await world.call(opened.sessionid)).restarted


async def test_a_sandbox_that_is_just_starting_is_not_swept(world: World) -> None:
    opened = await world.open()
    world.backend.kill(next(iter(world.backend.sandboxes)))
    await world.call(opened.sessionid)  # replaced
    found = live(world, opened)
    sandbox, found.sandbox = found.sandbox, None  # as between the engine's start and its answer
    await world.manager._reaper.sweep()
    assert sandbox is not None
    assert sandbox.id in world.backend.running
    found.sandbox = sandbox


async def test_closed_sessions_are_forgotten_once_their_tokens_have_expired(world: World) -> None:
    opened = await world.open()
    record = await world.stored(opened.session.id)
    closed = replace(record, state=SessionState.CLOSED, revision=0)
    await world.store.add(replace(closed, id="1" * 32, expires_at=datetime.now(UTC) - timedelta(minutes=1)))
    await world.store.add(replace(closed, id="2" * 32, expires_at=datetime.now(UTC) + timedelta(minutes=1)))
    await world.store.add(replace(record, id="3" * 32, revision=0, expires_at=NOW.replace(year=2000)))
    await world.manager._reaper.purge()
    assert {found.id for found in await world.store.list(Session)} == {"2" * 32, "3" * 32, opened.session.id}
    await world.store.delete(Session, "3" * 32)


async def test_run_directories_of_sandboxes_long_gone_are_removed(world: World) -> None:
    opened = await world.open()
    (sandbox,) = world.backend.of_session(opened.session.id)
    run_dir = world.settings.run_dir
    old, fresh, foreign = "a" * 32, "b" * 32, "index"
    for name in (old, fresh, foreign, sandbox.id):
        (run_dir / name).mkdir(parents=True)
        (run_dir / name / "s").touch()
    long_ago = time.time() - reaper.FORGOTTEN_S - 1
    for name in (old, foreign, sandbox.id):
        os.utime(run_dir / name, (long_ago, long_ago))
    await world.manager._reaper.sweep_run_dir()
    assert {path.name for path in run_dir.iterdir()} == {fresh, foreign, sandbox.id}


async def test_the_reaper_runs_by_itself(world: World) -> None:
    await world.manager.aclose()
    await world.start(reap_interval_s=0.01)
    opened = await world.open()
    live(world, opened).last_used -= 61
    with anyio.fail_after(60):
        await world.backend.stopped.wait()
