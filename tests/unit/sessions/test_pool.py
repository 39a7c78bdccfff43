"""The pool, with a clock of its own and sandboxes that are objects: who gets one, how many there are, and where they end."""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import NotFound, SandboxLost
from orchestrator.records import Resources, Session, SessionState
from orchestrator.sandboxes.backend import Image, Sandbox
from orchestrator.sessions import pool as pool_module
from orchestrator.sessions.pool import AGAIN_S, DEMAND_S, MB, Kind, Pool, Warm
from orchestrator.settings import Settings
from orchestrator.telemetry import REGISTRY
from tests.unit.sessions.conftest import NOW
from tests.unit.sessions.fakes import image

pytestmark = pytest.mark.anyio

IDLE_S = 300.0
SETTINGS = Settings(pool_memory_mb=256, pool_sandboxes=6, pool_idle_s=IDLE_S)
RESOURCES = Resources(memory_mb=128, cpus=1.0, pids=64, disk_mb=3)


class Channel:
    def __init__(self) -> None:
        self.dead = False

    def alive(self) -> bool:
        return not self.dead


class Starter:
    """Starts and stops nothing, but knows all that it has started."""

    def __init__(self) -> None:
        self.started: list[Warm] = []
        self.stopped: list[Warm] = []
        self.kinds: list[Kind] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.bytes = 20 * MB  # what the next ones say
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def start_warm(self, image: Image, kind: Kind) -> Warm:
        self.kinds.append(kind)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        sandbox = Sandbox(f"{len(self.started):032x}", "fake", image.environment_id, {})
        self.started.append(Warm(sandbox, Channel(), self.bytes))  # type: ignore[arg-type]
        return self.started[-1]

    async def stop_warm(self, warm: Warm) -> None:
        self.stopped.append(warm)

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


class World:
    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.now = 1000.0
        self.sessions = 0
        self.starter = Starter()
        self.pool = Pool(settings, self.starter, lambda: self.sessions, lambda: self.now)
        self.claimed: list[Sandbox] = []

    def claim(
        self, environment: str = "a", owner: str = "ada", distributions: tuple[str, ...] = (), **changes: Any
    ) -> Sandbox | None:
        """The sandbox that a session of these gets, if it gets one."""
        found = changes.pop("image", image(environment))
        warm = self.pool.claim(found, session(environment, owner=owner, **changes), distributions)
        if warm is not None:
            self.claimed.append(warm.sandbox)
        return None if warm is None else warm.sandbox

    async def settled(self) -> None:
        """What goes on behind has come to its end, or to a gate."""
        for _ in range(200):
            await asyncio.sleep(0)

    async def filled(self, *environments: str, owner: str = "ada") -> "World":
        for environment in environments:
            self.claim(environment, owner)
            await self.settled()
            self.now += 1
        return self

    def waiting(self) -> list[str]:
        """Environments of those that wait."""
        gone = {sandbox.id for sandbox in self.claimed} | {warm.sandbox.id for warm in self.starter.stopped}
        return [each.sandbox.environment_id for each in self.starter.started if each.sandbox.id not in gone]


def session(environment: str, **changes: Any) -> Session:
    made = Session(
        id="5" * 32,
        owner="ada",
        key_id="k",
        environment_id=environment,
        resources=RESOURCES,
        network="none",
        env={},
        ttl_s=60,
        state=SessionState.STARTING,
        reason="",
        since=NOW,
        created_at=NOW,
        last_used_at=NOW,
        expires_at=NOW,
    )
    return replace(made, **changes)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pool_module, "BEHIND_S", 0)
    return


@pytest.fixture
async def world() -> World:
    return World()


# --- claims ---


async def test_the_first_starts_one_behind_and_the_second_gets_it(world: World) -> None:
    assert world.claim() is None
    await world.settled()
    assert world.waiting() == ["a"]
    first = world.claim()
    assert first is not None
    await world.settled()
    assert world.waiting() == ["a", "a"]  # two have asked lately
    second = world.claim()
    assert second not in (None, first)


async def test_claims_are_counted(world: World) -> None:
    def counted() -> list[float]:
        names = [("kodou_pool_claims_total", {"outcome": outcome}) for outcome in ("hit", "miss")]
        return [REGISTRY.get_sample_value(*name) or 0 for name in names]

    before = counted()
    await world.filled("a")
    assert REGISTRY.get_sample_value("kodou_pool_sandboxes") == 1
    world.claim()
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 1]
    assert REGISTRY.get_sample_value("kodou_pool_sandboxes") == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": "b"},
        {"resources": replace(RESOURCES, memory_mb=256)},
        {"distributions": ("numpy",)},
        {"env": {"A": "1"}},
        {"network": "egress"},
    ],
    ids=str,
)
async def test_only_a_session_of_the_same_kind_gets_it(world: World, changes: dict[str, Any]) -> None:
    await world.filled("a")
    assert world.claim(**changes) is None
    assert world.claim() is not None


async def test_sessions_with_variables_are_no_demand(world: World) -> None:
    world.claim(env={"A": "1"})
    world.claim(network="egress")
    await world.settled()
    assert world.starter.started == []


async def test_a_dead_one_is_no_ones(world: World) -> None:
    await world.filled("a")
    world.starter.started[0].channel.dead = True  # type: ignore[attr-defined]
    assert world.claim() is None
    await world.settled()
    assert world.starter.stopped == world.starter.started[:1]


async def test_the_image_is_known_as_long_as_one_that_lives_waits_on_it(world: World) -> None:
    assert world.pool.image("a") is None
    await world.filled("a", "b")
    assert world.pool.image("a") == image("a")
    world.starter.started[0].channel.dead = True  # type: ignore[attr-defined]
    assert world.pool.image("a") is None
    assert world.pool.image("b") == image("b")


async def test_a_pool_without_memory_is_none() -> None:
    world = await World(SETTINGS.model_copy(update={"pool_memory_mb": 0})).filled("a", "a")
    assert world.starter.kinds == []


# --- demand ---


async def test_as_many_are_kept_as_were_asked_for_lately_and_then_one_and_then_none(world: World) -> None:
    for _ in range(3):
        world.claim()
    await world.settled()
    assert len(world.waiting()) == 3
    world.now += DEMAND_S + 1
    world.pool.tend()
    await world.settled()
    assert len(world.waiting()) == 1
    world.now += IDLE_S
    world.pool.tend()
    await world.settled()
    assert world.waiting() == []
    assert world.claim() is None


async def test_a_burst_starts_one_after_another(world: World) -> None:
    world.starter.gate = asyncio.Event()
    for _ in range(50):
        world.claim()
    await world.settled()
    world.pool.tend()
    await world.settled()
    assert len(world.starter.kinds) == 1
    world.starter.gate.set()
    await world.settled()
    assert len(world.waiting()) == SETTINGS.pool_sandboxes


async def test_what_has_died_is_replaced_after_a_while(world: World) -> None:
    await world.filled("a")
    world.starter.started[0].channel.dead = True  # type: ignore[attr-defined]
    world.pool.tend()
    await world.settled()
    assert len(world.starter.stopped) == 1
    assert world.waiting() == []
    world.now += AGAIN_S
    world.pool.tend()
    await world.settled()
    assert world.waiting() == ["a"]


@pytest.mark.parametrize("claims", [False, True])
async def test_those_that_die_once_they_have_greeted_are_started_less_and_less(world: World, claims: bool) -> None:
    rounds, known = [], 0  # when some were started: as many as are wanted
    world.claim()
    for _ in range(2000):
        await world.settled()
        if len(world.starter.started) > known:
            known = len(world.starter.started)
            rounds.append(world.now)
        for warm in world.starter.started:
            warm.channel.dead = True  # type: ignore[attr-defined]
        world.now += 5
        if claims:
            assert world.claim() is None
        else:
            world.pool._shelves[world.starter.kinds[0]].claims[-1] = world.now  # it stays in use
            world.pool.tend()
    pauses = [int(after - before) for before, after in pairwise(rounds)]
    assert pauses[0] >= AGAIN_S
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 10 * AGAIN_S


async def test_those_found_dead_together_are_one_failure(world: World) -> None:
    for _ in range(3):
        world.claim()
    await world.settled()
    for warm in world.starter.started:
        warm.channel.dead = True  # type: ignore[attr-defined]
    world.pool.tend()
    world.now += AGAIN_S
    world.pool.tend()
    await world.settled()
    assert world.waiting()


async def test_one_that_lives_when_it_is_claimed_ends_the_row_of_failures(world: World) -> None:
    await world.filled("a")
    for _ in range(3):
        world.starter.started[-1].channel.dead = True  # type: ignore[attr-defined]
        world.pool.tend()
        world.now += 10 * AGAIN_S
        assert world.claim() is None  # the shelf is in use, and is filled
        await world.settled()
    assert world.claim() is not None
    await world.settled()
    world.starter.started[-1].channel.dead = True  # type: ignore[attr-defined]
    world.pool.tend()
    started = len(world.starter.started)
    world.now += AGAIN_S
    world.pool.tend()
    await world.settled()
    assert len(world.starter.started) > started


async def test_an_environment_that_does_not_start_is_tried_less_and_less(world: World) -> None:
    world.starter.error = SandboxLost("its imports hang")
    tried = []
    for _ in range(2000):
        world.now += 5
        world.claim()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if len(world.starter.kinds) > len(tried):
            tried.append(world.now)
    pauses = [int(after - before) for before, after in pairwise(tried)]
    assert pauses[0] >= AGAIN_S
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 10 * AGAIN_S
    world.starter.error = None
    world.now += 1000
    world.claim()
    await world.settled()
    assert world.waiting()


# --- bounds ---


async def test_under_pressure_what_was_not_asked_for_the_longest_goes_first(world: World) -> None:
    world.starter.bytes = 100 * MB
    await world.filled("a", "b", "a", "c")
    # "a" was asked for after "b".
    assert world.waiting() == ["a", "c"]


async def test_who_asks_for_ever_new_kinds_displaces_their_own(world: World) -> None:
    world.starter.bytes = 60 * MB
    await world.filled("a", owner="ada")
    await world.filled("b", "c", "d", "e", "f", owner="eve")
    assert world.waiting() == ["a", "d", "e", "f"]


async def test_none_goes_for_one_that_has_no_room_all_the_same(world: World) -> None:
    world.starter.bytes = 90 * MB
    await world.filled("a", owner="ada")
    await world.filled("b", owner="eve")
    world.claim("b", "eve", resources=replace(RESOURCES, memory_mb=64))
    await world.settled()
    # The third takes what its session may at most, 64 MB.
    assert len(world.waiting()) == 3
    world.claim("b", "eve")
    await world.settled()
    assert world.starter.stopped == []


async def test_what_takes_more_than_there_is_is_started_once(world: World) -> None:
    world.starter.bytes = 300 * MB
    large = replace(RESOURCES, memory_mb=512)
    for _ in range(3):
        world.claim(resources=large)
        await world.settled()
    assert len(world.starter.started) == 1
    assert world.waiting() == []


@pytest.mark.parametrize(("said", "room"), [(0, 6), (2**50, 2)])
async def test_what_a_runner_says_of_its_memory_counts_within_reason(world: World, said: int, room: int) -> None:
    world.starter.bytes = said
    for _ in range(20):
        world.claim()
    await world.settled()
    assert len(world.waiting()) == room


async def test_warm_ones_make_room_for_sessions() -> None:
    world = World(SETTINGS.model_copy(update={"max_sessions": 4}))
    world.sessions = 2
    for _ in range(4):
        world.claim()
    await world.settled()
    assert len(world.waiting()) == 2
    world.sessions = 3  # whatever kind they are of
    world.pool.make_room()
    await world.settled()
    assert len(world.waiting()) == 1
    world.sessions = 4
    world.claim("b")
    await world.settled()
    assert world.waiting() == []


# --- never stale ---


async def test_an_environment_that_was_replaced_drains(world: World) -> None:
    await world.filled("a", "b")
    world.pool.drain("a")
    await world.settled()
    assert world.waiting() == ["b"]
    world.pool.tend()
    await world.settled()
    assert world.waiting() == ["b"]


async def test_one_that_just_starts_when_its_environment_is_replaced_is_not_kept(world: World) -> None:
    world.starter.gate = asyncio.Event()
    world.claim("a")
    await world.settled()
    world.pool.drain("a")
    world.starter.gate.set()
    await world.settled()
    assert world.waiting() == []


async def test_an_image_built_anew_is_another(world: World) -> None:
    await world.filled("a")
    anew = replace(image("a"), created_at=image("a").created_at + timedelta(days=1))
    assert world.claim(image=anew) is None
    await world.settled()
    assert len(world.starter.stopped) == 1
    assert world.claim(image=anew) is not None


async def test_what_stands_on_an_image_that_is_gone_or_replaced_drains(world: World) -> None:
    await world.filled("a", "b", "c")

    async def find(environment: str) -> Image | None:
        return {"a": None, "b": replace(image("b"), ref="another")}.get(environment, image(environment))

    await world.pool.compare(find)
    await world.settled()
    assert world.waiting() == ["c"]


async def test_an_image_that_is_not_there_is_not_asked_for_again(world: World) -> None:
    world.starter.error = NotFound("no such image")
    world.claim()
    await world.settled()
    for _ in range(5):
        world.now += AGAIN_S
        world.pool.tend()
        await world.settled()
    assert len(world.starter.kinds) == 1


# --- the end ---


async def test_nothing_is_left_at_the_end_nor_started_after(world: World) -> None:
    await world.filled("a")
    world.starter.gate = asyncio.Event()
    world.claim("b")
    await world.settled()
    world.pool.close()
    world.starter.gate.set()
    await world.settled()
    assert world.waiting() == []
    assert world.claim() is None
    world.pool.tend()
    await world.settled()
    assert world.waiting() == []
    assert len(world.starter.kinds) == 2


_STEPS = st.one_of(
    st.tuples(st.just("claim"), st.sampled_from("abcd"), st.sampled_from(["ada", "eve"])),
    st.tuples(st.just("bytes"), st.integers(0, 300)),
    st.tuples(st.just("sessions"), st.integers(0, 10)),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 20.0, 400.0])),
    st.tuples(st.just("kill"), st.integers(0, 20)),
    st.tuples(st.just("drain"), st.sampled_from("abcd")),
    st.tuples(st.sampled_from(["settle", "tend", "shut", "open", "fail", "mend"])),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_STEPS, max_size=40))
def test_bounds_hold_and_each_is_handed_out_once_and_all_end(steps: list[tuple[Any, ...]]) -> None:
    asyncio.run(_walk(steps))


async def _walk(steps: list[tuple[Any, ...]]) -> None:
    world = World(SETTINGS.model_copy(update={"max_sessions": 8}))
    starter = world.starter
    for name, *given_ in steps:
        if name == "claim":
            world.claim(*given_)
        elif name == "bytes":
            starter.bytes = given_[0] * MB
        elif name == "sessions":
            world.sessions = given_[0]
        elif name == "wait":
            world.now += given_[0]
        elif name == "kill" and given_[0] < len(starter.started):
            starter.started[given_[0]].channel.dead = True  # type: ignore[attr-defined]
        elif name == "drain":
            world.pool.drain(*given_)
        elif name == "settle":
            await world.settled()
        elif name == "tend":
            world.pool.tend()
        elif name == "shut":
            starter.gate = starter.gate or asyncio.Event()
        elif name == "open" and starter.gate is not None:
            starter.gate.set()
            starter.gate = None
        elif name in ("fail", "mend"):
            starter.error = SandboxLost("no") if name == "fail" else None
        held = [warm for shelf in world.pool._shelves.values() for warm in shelf.ready]
        assert len(held) + len(world.pool._starting) <= SETTINGS.pool_sandboxes
        assert sum(warm.bytes for warm in held) <= SETTINGS.pool_memory_mb * MB
    world.pool.close()
    if starter.gate is not None:
        starter.gate.set()
    await world.settled()
    assert not starter.tasks
    ids = [sandbox.id for sandbox in world.claimed] + [warm.sandbox.id for warm in starter.stopped]
    assert sorted(ids) == [warm.sandbox.id for warm in starter.started]
