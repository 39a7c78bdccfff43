import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.environments import python
from orchestrator.environments.builds import Build, Built, Environments
from orchestrator.environments.lock import Lock
from orchestrator.environments.lock_document import LockDocument
from orchestrator.environments.locks import EnvironmentLocks
from orchestrator.errors import (
    BuildFailed,
    Defect,
    DependencyUnresolvable,
    EngineUnavailable,
    IndexUnavailable,
    InvalidRequest,
    NotFound,
    RateLimited,
    ShuttingDown,
    UnknownVersion,
)
from orchestrator.packages.index import Index
from orchestrator.packages.uv import UvResult
from orchestrator.records import Alias, Environment, EnvironmentState
from orchestrator.sandboxes.backend import BuildEvent, Image
from orchestrator.settings import Settings
from orchestrator.store.memory import MemoryStore
from orchestrator.telemetry import REGISTRY
from tests.unit.environments.fakes import FakeImages, FakeUv, interpreter, lock_text, put_wheels, settings_in

pytestmark = pytest.mark.anyio

NO_WHEELS = UvResult(1, "", "error: No solution found\n  cause: Because old has no usable wheels and you require old")
UNKNOWN = UvResult(1, "", "error: No solution found\n  cause: Because old was not found in the package registry")
NO_INDEX = UvResult(
    2, "", "error: Request failed after 3 retries\n  cause: Failed to fetch: https://pypi.org/simple/a/"
)


class World:
    """One server's environments, on fakes."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = settings
        self.store = MemoryStore()
        self.images = FakeImages()
        self.uv = FakeUv(settings)
        monkeypatch.setattr(python, "run_uv", self.uv)
        self.environments = self.server()

    def server(self, settings: Settings | None = None, **parts: Any) -> Environments:
        return Environments(settings or self.settings, self.store, self.images, backend="fake", **parts)

    async def setup(self, *dependencies: str, version: str | None = None, refresh: bool = False) -> Build:
        return await self.environments.setup("python", version, list(dependencies), refresh=refresh)

    async def built(self, *dependencies: str, version: str | None = None, refresh: bool = False) -> Environment:
        build = await self.setup(*dependencies, version=version, refresh=refresh)
        async with asyncio.timeout(60):
            return (await build.result()).environment

    async def record(self) -> Environment:
        (record,) = await self.store.list(Environment)
        return record

    async def age_aliases(self, age: timedelta) -> None:
        for alias in await self.store.list(Alias):
            aged = replace(alias, resolved_at=datetime.now(UTC) - age)
            assert await self.store.replace(aged, expected=alias.revision)


Make = Callable[..., World]


@pytest.fixture
async def make(open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    worlds = []

    def made(**settings: object) -> World:
        worlds.append(World(settings_in(open_tmp_path, **settings), monkeypatch))
        return worlds[-1]

    yield made
    for world in worlds:
        await world.environments.aclose()


@pytest.fixture
def world(make: Make) -> World:
    return make()


async def phases(build: Build) -> list[str]:
    async with asyncio.timeout(60):
        return [event.phase async for event in build.events()]


# --- one build -------------------------------------------------------------------------------------------------------


async def test_a_new_set_is_resolved_fetched_and_built(world: World) -> None:
    build = await world.setup("NumPy", "requests")
    built = await build.result()
    assert await phases(build) == ["resolve", "fetch", "fetch", "install", "commit", "ready"]
    assert not built.reused
    environment = built.environment
    assert environment == await world.record()
    assert environment.state is EnvironmentState.READY
    assert environment.packages == {"numpy": "1", "requests": "1"}
    assert environment.lock == lock_text({"numpy": "1", "requests": "1"})
    assert (environment.language, environment.version, environment.backend) == ("python", "3.12.4", "fake")
    assert (environment.image_ref, environment.size_bytes) == (built.image.ref, built.image.size_bytes)
    (order,) = world.images.orders
    assert order.environment_id == environment.id
    assert [path.name for path in order.files] == ["numpy-1-py3-none-any.whl", "requests-1-py3-none-any.whl"]
    assert not order.from_source
    assert order.labels["io.kodou.environment"] == environment.id


async def test_the_bare_interpreter_needs_no_index(world: World) -> None:
    environment = await world.built()
    assert environment.packages == {}
    assert world.uv.runs == []


async def test_a_known_set_is_answered_without_resolving_or_building(world: World) -> None:
    first = await world.built("NumPy", "requests")
    build = await world.setup("requests", "numpy")
    again = await build.result()
    assert again.reused
    assert again.environment == first
    assert await phases(build) == ["ready"]
    assert len(world.uv.runs) == len(world.images.orders) == 1


async def test_versions_are_environments_of_their_own(world: World) -> None:
    assert (await world.built("numpy")).id.startswith("py3.12-")
    assert (await world.built("numpy", version="3.11")).id.startswith("py3.11-")
    assert len(world.images.orders) == 2


async def test_another_request_for_the_same_packages_shares_the_image(world: World) -> None:
    first = await world.built("numpy")
    build = await world.setup("numpy>=0")
    second = await build.result()
    assert second.environment.id == first.id
    assert second.reused
    assert len(world.images.orders) == 1


async def test_an_alias_is_good_for_its_time_only(make: Make) -> None:
    world = make(alias_ttl_s=3600)
    first = await world.built("numpy")
    world.uv.version = "2"
    await world.age_aliases(timedelta(seconds=3500))
    assert (await world.built("numpy")).id == first.id
    await world.age_aliases(timedelta(seconds=3700))
    assert (await world.built("numpy")).packages == {"numpy": "2"}
    assert (await world.built("numpy")).packages == {"numpy": "2"}
    assert len(world.uv.runs) == 2


async def test_refresh_resolves_again_and_the_alias_moves_on(world: World) -> None:
    first = await (await world.setup("numpy")).result()
    again = await (await world.setup("numpy", refresh=True)).result()
    assert (first.replaced, again.replaced) == (None, None)
    world.uv.refreshed, world.uv.version = False, "2"
    moved = await (await world.setup("numpy", refresh=True)).result()
    assert moved.environment.packages == {"numpy": "2"}
    assert moved.replaced == first.environment.id
    assert world.uv.refreshed
    assert (await world.built("numpy")).packages == {"numpy": "2"}
    assert len(world.uv.runs) == 3


async def test_an_image_that_vanished_is_built_again_from_its_lock(world: World) -> None:
    first = await world.built("numpy")
    world.images.images.clear()
    world.uv.version = "2"
    again = await (await world.setup("numpy")).result()
    assert not again.reused
    assert again.environment.id == first.id
    assert again.environment.packages == {"numpy": "1"}
    assert len(world.uv.runs) == 1
    assert len(world.images.orders) == 2


async def test_an_image_put_in_anothers_place_is_not_used(world: World) -> None:
    first = await world.built("numpy")
    world.images.images[first.id] = replace(world.images.images[first.id], ref="impostor")
    again = await (await world.setup("numpy")).result()
    assert not again.reused
    assert again.image.ref == first.image_ref


async def test_an_image_that_something_runs_on_is_not_asked_for(world: World) -> None:
    first = await (await world.setup("numpy")).result()
    world.images.images.clear()
    held: dict[str, Image] = {first.environment.id: first.image}
    server = world.server(held=held.get)
    assert (await (await server.setup("python", None, ["numpy"])).result()).reused
    held[first.environment.id] = replace(first.image, ref="older")
    again = await (await server.setup("python", None, ["numpy"])).result()
    assert not again.reused
    assert again.image.ref == first.image.ref


async def test_a_stored_lock_that_settings_no_longer_allow_is_resolved_anew(make: Make) -> None:
    world = make()
    await world.built("numpy")
    world.images.images.clear()
    stricter = world.settings.model_copy(update={"index_file_hosts": ("elsewhere.example",)})
    world.environments = world.server(stricter)
    world.uv.answers["numpy"] = UvResult(0, lock_text({"numpy": "1"}, host="https://elsewhere.example"), "")
    assert (await world.built("numpy")).state is EnvironmentState.READY
    assert len(world.uv.runs) == 2


# --- refusals --------------------------------------------------------------------------------------------------------


async def test_what_is_refused_is_refused_before_anything_runs(make: Make) -> None:
    world = make(max_dependencies=2)
    with pytest.raises(NotFound):
        await world.environments.setup("cobol", None, [])
    with pytest.raises(UnknownVersion):
        await world.setup("numpy", version="2.7")
    with pytest.raises(InvalidRequest):
        await world.setup("-r /etc/passwd")
    with pytest.raises(InvalidRequest):
        await world.setup("a", "b", "c")
    world.images.offered = []
    with pytest.raises(EngineUnavailable):
        await world.setup("numpy")
    assert world.uv.runs == []
    assert await world.store.list(Environment) == []


async def test_a_set_without_a_solution_is_told_and_leaves_no_environment(world: World) -> None:
    world.uv.answers["old"] = UNKNOWN
    with pytest.raises(DependencyUnresolvable, match="not found in the package registry"):
        await world.built("old")
    assert await world.store.list(Environment) == []
    assert world.images.sandbox_locks == []


async def test_a_set_without_wheels_is_resolved_in_a_sandbox(world: World) -> None:
    world.uv.answers["old"] = NO_WHEELS
    world.images.sandbox_lock = lock_text({"old": "1"})
    put_wheels(world.settings, {"old": "1"})
    assert (await world.built("old")).packages == {"old": "1"}
    assert world.images.sandbox_locks == [("old",)]


async def test_a_sandboxs_lock_is_not_trusted(world: World) -> None:
    world.uv.answers["old"] = NO_WHEELS
    world.images.sandbox_lock = lock_text({"old": "1"}, host="https://evil.example")
    with pytest.raises(DependencyUnresolvable, match="hosts"):
        await world.built("old")
    assert world.images.orders == []


async def test_source_builds_can_be_forbidden(make: Make) -> None:
    world = make(allow_source_builds=False)
    world.uv.answers["old"] = NO_WHEELS
    with pytest.raises(DependencyUnresolvable, match="nothing from source"):
        await world.built("old")
    assert world.images.sandbox_locks == []


async def test_a_failed_build_is_told_recorded_and_not_remembered(world: World) -> None:
    world.images.failure = BuildFailed("the installer ended with code 1", log_tail="the end")
    with pytest.raises(BuildFailed) as caught:
        await world.built("numpy")
    assert caught.value.log_tail == "the end"
    record = await world.record()
    assert record.state is EnvironmentState.FAILED
    assert record.reason == "build_failed: the installer ended with code 1"
    assert await world.store.list(Alias) == []
    world.images.failure = None
    assert (await world.built("numpy")).state is EnvironmentState.READY


async def test_what_nobody_foresaw_is_a_defect_that_tells_nothing_of_the_record(world: World) -> None:
    world.images.failure = ZeroDivisionError("/secret/path")
    with pytest.raises(Defect):
        await world.built("numpy")
    assert (await world.record()).reason == "ZeroDivisionError"


async def test_an_index_that_is_down_is_no_reason_to_refuse_what_is_there(world: World) -> None:
    first = await world.built("numpy")
    await world.age_aliases(timedelta(days=30))
    world.uv.answers["numpy"] = NO_INDEX
    build = await world.setup("numpy")
    stale = await build.result()
    assert stale.reused
    assert stale.environment.id == first.id
    with pytest.raises(IndexUnavailable):  # who asks for a fresh one is told that there is none
        await world.built("numpy", refresh=True)
    world.images.images.clear()
    with pytest.raises(IndexUnavailable):
        await world.built("numpy")


async def test_a_build_that_takes_too_long_ends(make: Make) -> None:
    world = make(build_timeout_s=1.5)
    world.images.gate.clear()
    with pytest.raises(BuildFailed, match=r"longer than 1\.5 s"):
        await world.built("numpy")
    record = await world.record()
    assert (record.state, record.reason) == (EnvironmentState.FAILED, "timed out")


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


# --- what is told ----------------------------------------------------------------------------------------------------


async def test_environments_are_listed_and_found(world: World) -> None:
    environment = await world.built("numpy")
    await world.store.add(replace(environment, id="failed", state=EnvironmentState.FAILED))
    await world.store.add(replace(environment, id="elsewhere", backend="other"))
    assert [each.id for each in await world.environments.list("python")] == [environment.id]
    assert await world.environments.get("python", environment.id) == environment
    assert await world.environments.offered("python") == world.images.offered
    for language, id in (("python", "py3.12-none"), ("cobol", environment.id)):
        with pytest.raises(NotFound):
            await world.environments.get(language, id)
    for listing in (world.environments.list, world.environments.offered):
        with pytest.raises(NotFound):
            await listing("cobol")


async def test_uses_are_counted(world: World) -> None:
    environment = await world.built("numpy")
    for _ in range(10):
        world.environments.touch(environment.id)
    await world.environments.aclose()  # which waits for what goes on behind
    touched = await world.record()
    assert touched.uses == 10
    assert touched.last_used_at >= environment.last_used_at


async def test_builds_are_measured(world: World) -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    ready, failed = value("kodou_builds_total", outcome="ready"), value("kodou_builds_total", outcome="failed")
    timed = value("kodou_build_seconds_count")
    await world.built("numpy")
    await world.built("numpy")
    world.images.failure = BuildFailed("no", log_tail="")
    with pytest.raises(BuildFailed):
        await world.built("pandas")
    assert value("kodou_builds_total", outcome="ready") == ready + 1
    assert value("kodou_builds_total", outcome="failed") == failed + 1
    assert value("kodou_build_seconds_count") == timed + 1
    assert value("kodou_images") == 1
    assert value("kodou_image_bytes") == 100


async def test_events_have_bytes_of_what_is_fetched(world: World) -> None:
    build = await world.setup("numpy")
    fetched = [event async for event in build.events() if event.phase == "fetch"]
    assert fetched == [BuildEvent("fetch", package="numpy", bytes=7, total=7)]


# --- from a lock -----------------------------------------------------------------------------------------------------


def lock_of(environment: Environment) -> LockDocument:
    return LockDocument.read(json.loads(environment.document))


async def remade(world: World, document: LockDocument) -> Built:
    build = await world.environments.remake("python", document)
    async with asyncio.timeout(60):
        return await build.result()


async def test_a_lock_makes_the_same_environment_on_another_server(world: World, make: Make) -> None:
    first = await world.built("numpy", "requests")
    other = make()
    other.uv.version = "2"  # what the names alone would be resolved to by now
    made = await remade(other, lock_of(first))
    assert not made.reused
    assert made.environment.id == first.id
    assert made.environment.packages == first.packages
    assert made.environment.document == first.document
    assert other.uv.runs == [("numpy==1", "requests==1")]


async def test_a_lock_whose_environment_is_there_asks_neither_the_index_nor_the_engine(world: World) -> None:
    first = await world.built("numpy")
    made = await remade(world, lock_of(first))
    assert (made.reused, made.environment.id) == (True, first.id)
    assert len(world.uv.runs) == len(world.images.orders) == 1


async def test_a_lock_whose_image_was_pruned_is_built_anew_from_what_is_known(world: World) -> None:
    first = await world.built("numpy")
    world.images.images.clear()
    made = await remade(world, lock_of(first))
    assert (made.reused, made.environment.id) == (False, first.id)
    assert len(world.uv.runs) == 1
    assert len(world.images.orders) == 2


async def test_the_bare_interpreter_has_a_lock_that_needs_no_index(world: World, make: Make) -> None:
    other = make()
    assert (await remade(other, lock_of(await world.built()))).environment.packages == {}
    assert other.uv.runs == []


async def test_on_another_base_or_runner_a_lock_makes_the_same_packages_under_an_id_of_their_own(
    world: World, make: Make
) -> None:
    first = await world.built("numpy")
    other = make()
    other.images.offered = [interpreter("3.12.4", digest="newer")]
    made = await remade(other, lock_of(first))
    assert made.environment.id != first.id
    assert made.environment.packages == first.packages
    assert lock_of(made.environment).files == lock_of(first).files


async def test_two_who_ask_with_one_lock_share_its_build(world: World, make: Make) -> None:
    document = lock_of(await world.built("numpy"))
    other = make()
    other.images.gate.clear()
    builds = [await other.environments.remake("python", document) for _ in range(3)]
    assert len(set(map(id, builds))) == 1
    other.images.gate.set()
    await builds[0].result()
    assert len(other.images.orders) == 1


async def test_a_lock_of_an_interpreter_that_is_not_on_offer_is_refused_with_those_that_are(world: World) -> None:
    document = lock_of(await world.built("numpy"))
    world.images.offered = [interpreter("3.12.5")]
    with pytest.raises(UnknownVersion) as refused:
        await world.environments.remake("python", document)
    assert refused.value.members() == {"field": "lock.python", "offered": ["3.12.5"]}


async def test_a_lock_of_another_language_is_refused(world: World) -> None:
    document = lock_of(await world.built("numpy"))
    with pytest.raises(InvalidRequest) as refused:
        await world.environments.remake("python", replace(document, language="java"))
    assert refused.value.field == "lock.language"


async def test_a_hash_that_the_index_has_not_cannot_be_resolved(world: World, make: Make) -> None:
    document = lock_of(await world.built("numpy"))
    other = make()
    forged = replace(document, files=(replace(document.files[0], sha256="0" * 64),))
    with pytest.raises(DependencyUnresolvable, match=r"numpy-1-py3-none-any\.whl"):
        await remade(other, forged)
    assert not other.images.orders


async def test_a_version_that_the_index_has_not_cannot_be_resolved(world: World, make: Make) -> None:
    document = lock_of(await world.built("numpy"))
    other = make()
    other.uv.answers["numpy==1"] = UNKNOWN
    with pytest.raises(DependencyUnresolvable, match="not found in the package registry"):
        await remade(other, document)


async def test_a_source_in_a_lock_is_looked_for_in_a_sandbox_and_only_where_sources_are_built(
    world: World, make: Make
) -> None:
    text = lock_text({"a": "1"}).replace("a-1-py3-none-any.whl", "a-1.tar.gz").replace("wheels = [", "sdist = ")
    text = text.replace("}]", "}")
    lock = Lock.parse(text, interpreter(), Index.of(world.settings))
    document = LockDocument.of("x", lock, interpreter(), index="")
    world.images.sandbox_lock = text
    path = world.settings.wheels_dir / lock.files[0].sha256[:2] / lock.files[0].sha256 / "a-1.tar.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert (await remade(world, document)).environment.packages == {"a": "1"}
    assert world.images.sandbox_locks == [["a==1"]]
    assert world.images.orders[0].from_source
    assert world.uv.runs == []
    with pytest.raises(DependencyUnresolvable, match="builds nothing from source"):
        await remade(make(allow_source_builds=False), document)


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
