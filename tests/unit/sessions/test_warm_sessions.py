"""Sessions whose sandboxes were waiting for them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from orchestrator.errors import NotFound, SandboxLost, SessionExpired, StoreBusy
from orchestrator.records import Session
from orchestrator.sandboxes.backend import Sandbox, SandboxSpec
from orchestrator.sandboxes.labels import INSTANCE_LABEL, POOLED, SESSION_LABEL
from orchestrator.sessions import pool
from orchestrator.settings import Settings
from tests.unit.sessions.conftest import ALICE, BOB, ENVIRONMENT, OPTIONS, World, answered_by
from tests.unit.sessions.fakes import image

pytestmark = pytest.mark.anyio

WARM = replace(OPTIONS, env={}, distributions=("numpy",))


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A server with one warm sandbox, and the session that it was started behind."""
    monkeypatch.setattr(pool, "BEHIND_S", 0)
    made = World(Settings(data_dir=tmp_path, reap_interval_s=3600))
    await made.start()
    assert not (await made.open(options=WARM)).warm
    await made.settled()
    yield made
    for manager in made.managers:
        await manager.aclose()


def waiting(world: World) -> list[Sandbox]:
    """Sandboxes that no session has."""
    held = {live.sandbox.id for live in world.manager._registry if live.sandbox is not None}
    return [sandbox for id, sandbox in world.backend.sandboxes.items() if id not in held]


async def test_a_session_gets_the_one_that_waits_configured_as_its_own(world: World) -> None:
    (ready,) = waiting(world)
    channel = world.backend.channels[ready.id]
    opened = await world.open(BOB, WARM)
    assert opened.warm
    assert channel.preloaded == ("numpy",)
    cold = next(found for found in world.backend.channels.values() if found.preloaded is None)
    assert channel.config == cold.config
    assert answered_by((await world.call(opened.sessionid, BOB)).reply) == ready.id
    assert (await world.stored(opened.session.id)).sandbox["id"] == ready.id
    await world.manager.close(opened.sessionid, BOB)
    assert ready.id not in world.backend.sandboxes


async def test_each_is_one_sessions_only(world: World) -> None:
    opened = await asyncio.gather(*(world.open(options=WARM) for _ in range(10)))
    answers = {answered_by((await world.call(each.sessionid)).reply) for each in opened}
    assert len(answers) == 10
    assert sum(each.warm for each in opened) == 1


async def test_libraries_with_more_processors_are_imported_in_the_session(world: World) -> None:
    for _ in range(2):
        await world.open(options=replace(WARM, resources=replace(WARM.resources, cpus=2.0)))
        await world.settled()
    assert () in [channel.preloaded for channel in world.backend.channels.values()]


async def test_one_that_has_died_is_replaced_by_a_fresh_one(world: World) -> None:
    (ready,) = waiting(world)
    world.backend.kill(ready.id)
    opened = await world.open(options=WARM)
    assert not opened.warm
    assert answered_by((await world.call(opened.sessionid)).reply) != ready.id
    await world.settled()
    assert ready.id not in world.backend.sandboxes


async def test_one_that_dies_after_it_was_claimed_is_replaced_as_any_sessions(world: World) -> None:
    (ready,) = waiting(world)
    opened = await world.open(options=WARM)
    world.backend.kill(ready.id)
    assert (await world.call(opened.sessionid)).restarted


async def test_a_session_that_the_store_does_not_take_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ready,) = waiting(world)

    async def busy(_: object) -> None:
        raise StoreBusy("locked")

    monkeypatch.setattr(world.store, "add", busy)
    with pytest.raises(StoreBusy):
        await world.open(options=WARM)
    await world.settled()
    assert ready.id not in world.backend.sandboxes
    assert len(world.manager._registry) == 1


async def test_a_claim_that_is_cancelled_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (ready,) = waiting(world)
    entered, add = anyio.Event(), world.store.add

    async def hang(_: object) -> None:
        entered.set()
        await anyio.sleep_forever()

    monkeypatch.setattr(world.store, "add", hang)
    opening = asyncio.create_task(world.open(options=WARM))
    await entered.wait()
    opening.cancel()
    monkeypatch.setattr(world.store, "add", add)
    with pytest.raises(asyncio.CancelledError):
        await opening
    await world.settled()
    assert ready.id not in world.backend.sandboxes
    assert len(world.manager._registry) == 1


async def test_a_claim_of_a_session_that_is_stopped_meanwhile_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ready,) = waiting(world)
    add = world.store.add

    async def stopped(record: Session) -> None:
        await add(record)
        live = world.manager._registry.get(record.id)
        assert live is not None
        world.manager._lifecycle.close(live, "stopped")

    monkeypatch.setattr(world.store, "add", stopped)
    with pytest.raises(SessionExpired):
        await world.open(options=WARM)
    await world.settled()
    assert ready.id not in world.backend.sandboxes


@pytest.mark.parametrize("error", [SandboxLost("its imports ended it"), NotFound("no such image")])
async def test_warm_starts_that_fail_cost_sessions_nothing(world: World, error: Exception) -> None:
    world.backend.preload_error = error  # type: ignore[assignment]
    opened = [await world.open(options=WARM) for _ in range(3)]
    await world.settled()
    assert [each.warm for each in opened] == [True, False, False]
    assert waiting(world) == []


async def test_warm_starts_wait_while_sessions_do(world: World) -> None:
    await world.manager.aclose()
    await world.start(max_starts=1)
    world.backend.start_gate = asyncio.Event()
    opening = [asyncio.create_task(world.open(options=WARM)) for _ in range(4)]
    order = []
    started = world.backend.start

    async def start(*args: object, labels: dict[str, str], **members: object) -> Sandbox:
        order.append(labels[SESSION_LABEL] == POOLED)
        return await started(*args, labels=labels, **members)  # type: ignore[arg-type]

    world.backend.start = start  # type: ignore[method-assign,assignment]
    await world.backend.start_entered.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    world.backend.start_gate.set()
    await asyncio.gather(*opening)
    await world.settled()
    assert order[:3].count(True) <= 1  # the first session's may have been over before the others came
    assert order[-3:] == [True, True, True]


async def test_imports_that_take_long_keep_no_turn(world: World) -> None:
    await world.manager.aclose()
    await world.start(max_starts=1)
    world.backend.preload_gate = asyncio.Event()
    for _ in range(3):
        with anyio.fail_after(5):
            await world.open(options=WARM)
        for _ in range(100):
            await asyncio.sleep(0)
    world.backend.preload_gate.set()


# --- leftovers ---


async def test_nothing_is_left_when_the_server_ends(world: World) -> None:
    world.backend.preload_gate = asyncio.Event()  # never opened
    await world.open(options=replace(WARM, distributions=("other",)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(waiting(world)) == 2
    with anyio.fail_after(10):
        await world.manager.aclose()
    assert waiting(world) == []
    assert len(world.backend.sandboxes) == 2  # kept, with their sessions


async def test_sessions_that_were_warm_outlive_the_server_and_warm_sandboxes_do_not(world: World) -> None:
    await world.manager.aclose()
    await world.start(keep_sessions=True)
    for _ in range(2):
        opened = await world.open(options=WARM)
        await world.settled()
    assert opened.warm
    assert len(waiting(world)) == 2
    await world.crash()
    await world.start()
    assert waiting(world) == []
    assert not (await world.call(opened.sessionid)).restarted
    await world.manager.aclose()


async def test_only_what_nobody_holds_is_swept(world: World) -> None:
    (ready,) = waiting(world)
    labels = {SESSION_LABEL: POOLED, INSTANCE_LABEL: world.manager._sandboxes.instance}
    orphan = await world.backend.start(image(ENVIRONMENT.id), SandboxSpec(OPTIONS.resources), labels=labels)
    opened = await world.open(options=WARM)
    await world.settled()
    await world.manager._reaper.sweep()
    assert orphan.id not in world.backend.sandboxes
    assert answered_by((await world.call(opened.sessionid, ALICE)).reply) == ready.id
    assert len(waiting(world)) == 2


async def test_the_reaper_drains_what_stands_on_an_image_that_is_gone(world: World) -> None:
    world.backend.images.gone.add(ENVIRONMENT.id)
    world.manager._reaper._last_swept -= 3600
    await world.reap()
    assert waiting(world) == []


async def test_the_reaper_replaces_what_has_died(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "AGAIN_S", 0)  # else after a while
    (ready,) = waiting(world)
    world.backend.kill(ready.id)
    await world.reap()
    (fresh,) = waiting(world)
    assert fresh.id != ready.id


async def test_a_replaced_environment_drains(world: World) -> None:
    world.manager.replaced(ENVIRONMENT.id)
    await world.settled()
    assert waiting(world) == []
