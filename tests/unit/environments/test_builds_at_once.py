"""Many builds at once, and the ends of a server under them."""

import asyncio
from dataclasses import replace

import pytest

from orchestrator.environments.locks import EnvironmentLocks
from orchestrator.errors import RateLimited, ShuttingDown
from orchestrator.records import Environment, EnvironmentState
from tests.unit.environments.conftest import Make, World

pytestmark = pytest.mark.anyio


# --- many at once ----------------------------------------------------------------------------------------------------


async def test_equal_requests_at_the_same_moment_share_one_build(world: World) -> None:
    names = ["numpy", "NumPy", " numpy ", "NUMPY"]
    builds = await asyncio.gather(*(world.setup(names[n % 4]) for n in range(20)))
    assert len({id(build) for build in builds}) == 1
    results = await asyncio.gather(*(build.result() for build in builds))
    assert len({result.environment.id for result in results}) == 1
    assert len(world.uv.runs) == len(world.images.orders) == 1


async def test_different_requests_for_one_environment_build_it_once(world: World) -> None:
    requests = ["numpy", "numpy>0", "numpy>0.1", "numpy>=0"]
    results = await asyncio.gather(*[(await world.setup(request)).result() for request in requests])
    assert len({result.environment.id for result in results}) == 1
    assert [result.reused for result in results].count(False) == 1
    assert len(world.images.orders) == 1


async def test_two_servers_on_one_data_directory_build_once(world: World) -> None:
    other = world.server()
    builds = [await world.setup("numpy"), await other.setup("python", None, ["numpy"])]
    results = await asyncio.gather(*(build.result() for build in builds))
    await other.aclose()
    assert sorted(result.reused for result in results) == [False, True]
    assert len(world.images.orders) == 1


async def test_builds_are_bounded_in_number_and_so_are_those_that_wait(make: Make) -> None:
    world = make(max_builds=2, max_builds_waiting=3)
    world.uv.gate.clear()
    builds = [await world.setup(f"p{n}") for n in range(5)]
    with pytest.raises(RateLimited) as caught:
        await world.setup("p5")
    assert caught.value.after_s > 0
    assert await world.setup("p0") is builds[0]  # to join one is not to start one
    world.uv.gate.set()
    await asyncio.gather(*(build.result() for build in builds))
    assert world.uv.most_at_once == 2
    await world.built("p5")


async def test_one_owner_s_builds_neither_fill_all_places_nor_keep_another_s_waiting(make: Make) -> None:
    world = make(max_builds=1, max_builds_waiting=9, max_builds_per_owner=4)
    world.uv.gate.clear()
    ended: list[str] = []

    async def asked(owner: str, name: str) -> asyncio.Task[None]:
        build = await world.environments.setup("python", None, [name], owner=owner)

        async def follow() -> None:
            await build.result()
            ended.append(owner)

        return asyncio.create_task(follow())

    following = [await asked("ada", f"p{n}") for n in range(4)]
    with pytest.raises(RateLimited, match="yours"):
        await asked("ada", "p4")
    following.append(await asked("bob", "q"))
    world.uv.gate.set()
    await asyncio.gather(*following)
    assert ended.index("bob") <= 2  # behind the one that ran, and at most one that was next
    await (await asked("ada", "p4"))


async def test_a_client_that_leaves_does_not_stop_the_build(world: World) -> None:
    world.images.gate.clear()
    client = asyncio.create_task(world.built("numpy"))
    await world.images.started.wait()
    client.cancel()
    await asyncio.wait({client})
    world.images.gate.set()
    build = await world.setup("numpy")
    assert (await build.result()).environment.state is EnvironmentState.READY
    assert len(world.images.orders) == 1


async def test_who_joins_hears_what_happened_before(world: World) -> None:
    world.images.gate.clear()
    first = await world.setup("numpy")
    await world.images.started.wait()
    joined = await world.setup("numpy")
    watching = joined.events()
    assert [(await anext(watching)).phase for _ in range(3)] == ["resolve", "fetch", "install"]
    world.images.gate.set()
    assert [event.phase async for event in watching] == ["commit", "ready"]
    assert await first.result() == await joined.result()


async def test_a_build_tells_when_its_turn_came(world: World, make: Make) -> None:
    waiting = make(max_builds=1)
    waiting.images.gate.clear()
    first, second = await waiting.setup("a"), await waiting.setup("b")
    await waiting.images.started.wait()
    assert first.turn_came is not None
    assert second.turn_came is None
    waiting.images.gate.set()
    await second.result()
    assert second.turn_came > first.turn_came
    assert (await waiting.setup("a")).turn_came is None  # nothing to wait for


# --- the ends of a server --------------------------------------------------------------------------------------------


async def test_when_the_server_stops_builds_end_and_waiters_are_told(make: Make) -> None:
    world = make(max_builds=1)
    world.images.gate.clear()
    running, waiting = await world.setup("numpy"), await world.setup("requests")
    await world.images.started.wait()
    await world.environments.aclose()
    for build in (running, waiting):
        with pytest.raises(ShuttingDown):
            await build.result()
    record = await world.record()
    assert (record.state, record.reason) == (EnvironmentState.FAILED, "stopped")
    with pytest.raises(ShuttingDown):
        await world.setup("numpy")
    await world.environments.aclose()


async def test_a_start_marks_what_a_crash_left_but_not_what_another_server_builds(world: World) -> None:
    await world.built("numpy")
    ready = await world.record()
    states = {"a": EnvironmentState.BUILDING, "b": EnvironmentState.PLANNED, "c": EnvironmentState.BUILDING}
    for name, state in states.items():
        await world.store.add(replace(ready, id=name, state=state))
    async with EnvironmentLocks(world.settings.data_dir).held("c"):
        await world.environments.start()
    after = {each.id: each.state for each in await world.store.list(Environment)}
    assert after == {
        ready.id: EnvironmentState.READY,
        "a": EnvironmentState.FAILED,
        "b": EnvironmentState.FAILED,
        "c": EnvironmentState.BUILDING,
    }


async def test_an_image_whose_record_a_crash_left_behind_is_taken_up(world: World) -> None:
    first = await world.built("numpy")
    crashed = replace(first, state=EnvironmentState.BUILDING, image_ref=None)
    assert await world.store.replace(crashed, expected=first.revision)
    again = await (await world.setup("numpy")).result()
    assert again.reused
    assert again.environment.state is EnvironmentState.READY
    assert again.environment.image_ref == again.image.ref
    assert len(world.images.orders) == 1
