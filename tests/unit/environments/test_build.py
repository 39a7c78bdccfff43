import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from orchestrator.environments.build import MAX_REPLAYED, Build, Built
from orchestrator.errors import BuildFailed
from orchestrator.records import Environment, EnvironmentState
from orchestrator.sandboxes.backend import BuildEvent, Image

pytestmark = pytest.mark.anyio

NOW = datetime(2030, 1, 1, tzinfo=UTC)
BUILT = Built(
    Environment("e", "python", "3.12.4", {}, "", "fake", "r", 1, EnvironmentState.READY, "", NOW, NOW, NOW),
    Image("e", "r", 1, NOW, {}),
    reused=False,
)


async def events_of(build: Build) -> list[BuildEvent]:
    async with asyncio.timeout(60):
        return [event async for event in build.events()]


async def test_who_comes_late_hears_all_that_happened() -> None:
    build = Build()
    told = [BuildEvent("resolve"), BuildEvent("fetch", package="a"), BuildEvent("install", line="x")]
    early = asyncio.create_task(events_of(build))
    for event in told:
        await asyncio.sleep(0)
        build.publish(event)
    late = asyncio.create_task(events_of(build))
    await asyncio.sleep(0)
    build.finish(BUILT)
    assert await early == await late == await events_of(build) == [*told, BuildEvent("ready")]
    assert await build.result() is BUILT


async def test_what_is_replayed_is_bounded_but_keeps_each_change_of_phase() -> None:
    build = Build()
    for phase in ("resolve", "fetch", "install"):
        for n in range(MAX_REPLAYED):
            build.publish(BuildEvent(phase, line=str(n)))
    build.finish(BUILT)
    replayed = await events_of(build)
    assert replayed[:2] == [BuildEvent("resolve", line="0"), BuildEvent("fetch", line="0")]
    assert replayed[2:] == [
        BuildEvent("install", line="0"),
        *(BuildEvent("install", line=str(n)) for n in range(1, MAX_REPLAYED)),
        BuildEvent("ready"),
    ]


async def test_a_slow_watcher_misses_the_middle_but_neither_stalls_nor_repeats() -> None:
    build = Build()
    build.publish(BuildEvent("resolve"))
    watching = build.events()
    assert await anext(watching) == BuildEvent("resolve")
    for n in range(3 * MAX_REPLAYED):
        build.publish(BuildEvent("install", line=str(n)))
    build.finish(BUILT)
    seen = [event.line async for event in watching]
    assert seen[-2:] == [str(3 * MAX_REPLAYED - 1), None]
    assert len(seen) == len(set(seen)) == MAX_REPLAYED


async def test_a_failure_ends_the_events_and_is_told_to_every_waiter() -> None:
    build = Build()
    waiters = [asyncio.create_task(build.result()) for _ in range(3)]
    watcher = asyncio.create_task(events_of(build))
    await asyncio.sleep(0)
    build.publish(BuildEvent("resolve"))
    build.fail(BuildFailed("no", log_tail="log"))
    for waiter in waiters:
        with pytest.raises(BuildFailed):
            await waiter
    assert await watcher == [BuildEvent("resolve")]


async def test_a_failure_nobody_waits_for_makes_no_noise() -> None:
    noise: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
    build = Build()
    build.fail(BuildFailed("no", log_tail=""))
    del build
    gc.collect()
    assert noise == []


async def test_a_waiter_that_leaves_takes_nothing_along() -> None:
    build = Build()
    waiter = asyncio.create_task(build.result())
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    build.finish(BUILT)
    assert await build.result() is BUILT


async def test_what_is_forwarded_is_closed_when_the_build_is_cancelled() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[BuildEvent]:
        try:
            yield BuildEvent("install")
            await asyncio.Event().wait()
        finally:
            closed.set()

    build = Build()
    task = asyncio.create_task(build.forward(endless()))
    watching = build.events()
    assert await anext(watching) == BuildEvent("install")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
