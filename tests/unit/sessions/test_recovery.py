"""What a new server makes of what an earlier one left."""

from dataclasses import replace

import anyio
import pytest

from orchestrator.errors import EngineUnavailable, KodouError, SandboxLost, SessionExpired, SessionNotFound
from orchestrator.records import Session, SessionState
from orchestrator.sandboxes.backend import SandboxSpec
from orchestrator.sessions.recovery import Claim
from tests.unit.sessions.conftest import ALICE, ENVIRONMENT, NOW, OPTIONS, World, answered_by
from tests.unit.sessions.fakes import FakeBackend, engine_gone, image

pytestmark = pytest.mark.anyio


async def test_a_session_whose_sandbox_lives_goes_on(world: World) -> None:
    opened = await world.open()
    (sandbox,) = world.backend.sandboxes
    await world.crash()
    await world.start()
    outcome = await world.call(opened.sessionid)
    assert answered_by(outcome.reply) == sandbox
    assert not outcome.restarted
    config = world.backend.channels[sandbox].config
    assert config is not None
    assert config.env == {"A": "1"}


async def test_a_stopped_server_s_sessions_go_on_too(world: World) -> None:
    opened = await world.open()
    await world.manager.drain(1)
    await world.manager.aclose()
    await world.start()
    assert not (await world.call(opened.sessionid)).restarted


async def test_a_session_whose_sandbox_died_is_over_and_says_so(world: World) -> None:
    opened = await world.open()
    world.backend.kill(next(iter(world.backend.sandboxes)))
    await world.crash()
    await world.start()
    assert world.backend.sandboxes == {}
    assert (await world.stored(opened.session.id)).reason == "lost"
    with pytest.raises(SessionExpired, match="gone"):
        await world.call(opened.sessionid)


@pytest.mark.parametrize("error", ["connect_error", "configure_error"])
async def test_a_sandbox_that_does_not_answer_is_stopped(world: World, error: str) -> None:
    await world.open()
    await world.crash()
    setattr(world.backend, error, SandboxLost("no answer"))
    await world.start()
    assert world.backend.sandboxes == {}
    assert len(world.manager._registry) == 0


async def test_one_sandbox_that_does_not_answer_does_not_cost_the_others(world: World) -> None:
    dead, live = await world.open(), await world.open()
    world.backend.kill(world.backend.of_session(dead.session.id)[0].id)
    await world.crash()
    await world.start()
    assert not (await world.call(live.sessionid)).restarted
    assert len(world.backend.sandboxes) == 1


async def test_a_session_that_was_starting_is_closed_and_its_sandbox_stopped(world: World) -> None:
    world.backend.start_gate = gate = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(world.open)
        await world.backend.start_entered.wait()
        (record,) = await world.store.list(Session)
        await world.crash()
        group.cancel_scope.cancel()
    instance = world.manager._sandboxes.instance
    world.backend.start_gate = None
    await world.backend.start(  # the engine finished what the crashed server had asked for
        image(ENVIRONMENT.id),
        SandboxSpec(OPTIONS.resources),
        labels={"io.kodou.session": record.id, "io.kodou.instance": instance},
    )
    await world.start()
    assert world.backend.sandboxes == {}
    assert (await world.stored(record.id)).state is SessionState.CLOSED
    gate.set()  # what is left of the crashed server waits there


async def test_a_session_that_was_closing_is_closed_as_its_owner_asked(world: World) -> None:
    opened = await world.open()
    record = await world.stored(opened.session.id)
    await world.crash()
    closing = replace(record, state=SessionState.CLOSING, reason="closed")
    assert await world.store.replace(closing, expected=record.revision)
    await world.start()
    assert world.backend.sandboxes == {}
    with pytest.raises(SessionNotFound):
        await world.call(opened.sessionid)
    await world.manager.close(opened.sessionid, ALICE)


async def test_a_session_past_its_greatest_age_is_not_taken_up(world: World) -> None:
    opened = await world.open()
    record = await world.stored(opened.session.id)
    await world.crash()
    assert await world.store.replace(replace(record, expires_at=NOW.replace(year=2000)), expected=record.revision)
    await world.start()
    assert world.backend.sandboxes == {}


async def test_sandboxes_and_sessions_of_others_are_left_alone(world: World) -> None:
    others = {"io.kodou.session": "e" * 32, "io.kodou.instance": "another"}
    theirs = await world.backend.start(image("x"), SandboxSpec(OPTIONS.resources), labels=others)
    opened = await world.open()
    record = await world.stored(opened.session.id)
    await world.store.add(replace(record, id="e" * 32, sandbox={**record.sandbox, "instance": "another"}, revision=0))
    await world.crash()
    await world.start()
    assert theirs.id in world.backend.running
    assert (await world.stored("e" * 32)).state is SessionState.READY
    await world.manager._reaper.sweep()
    await world.manager._watch.compare()
    assert theirs.id in world.backend.running
    assert (await world.stored("e" * 32)).state is SessionState.READY


async def test_sessions_of_another_backend_end_and_their_handles_are_not_used(world: World) -> None:
    opened = await world.open()
    await world.crash()
    before, world.backend = world.backend, FakeBackend()
    world.backend.name = "another"
    await world.start()
    assert world.backend.stops == before.stops == 0
    assert (await world.stored(opened.session.id)).state is SessionState.CLOSED


async def test_recovered_sessions_count_for_their_owner(world: World) -> None:
    opened = await world.open()
    await world.crash()
    await world.start(max_sessions_per_owner=1)
    with pytest.raises(KodouError, match="the most"):
        await world.open()
    await world.manager.close(opened.sessionid, ALICE)
    await world.open()


async def test_a_second_server_on_the_data_directory_is_refused_and_touches_nothing(world: World) -> None:
    opened = await world.open()
    with pytest.raises(KodouError, match="data directory"):
        await world.start()
    refused = world.managers.pop()
    await refused.aclose()
    assert not (await world.call(opened.sessionid)).restarted


async def test_a_claim_can_be_taken_once_it_is_released(world: World) -> None:
    path = world.settings.data_dir / "locks" / "other"
    first = Claim(path)
    with pytest.raises(KodouError):
        Claim(path)
    first.release()
    first.release()
    Claim(path).release()


async def test_without_its_engine_a_server_does_not_start_and_ends_no_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await world.open()
    await world.crash()

    async def gone(labels: object) -> list[object]:
        raise engine_gone()

    with monkeypatch.context() as patch:
        patch.setattr(world.backend, "owned", gone)
        with pytest.raises(EngineUnavailable):
            await world.start()
    await world.managers.pop().aclose()
    await world.start()
    assert not (await world.call(opened.sessionid)).restarted


async def test_a_leftover_that_the_engine_will_not_stop_is_tried_again(world: World) -> None:
    opened = await world.open()
    world.backend.kill(next(iter(world.backend.sandboxes)))
    await world.crash()
    world.backend.stop_error = engine_gone()
    await world.start()
    with pytest.raises(SessionExpired):
        await world.call(opened.sessionid)
    world.backend.stop_error = None
    await world.reap()
    assert world.backend.sandboxes == {}
    assert (await world.stored(opened.session.id)).state is SessionState.CLOSED
