"""One build: from a request to an image, what is refused, what fails, and what is told of it."""

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.errors import (
    BuildFailed,
    Defect,
    DependencyUnresolvable,
    EngineUnavailable,
    IndexUnavailable,
    InvalidRequest,
    NotFound,
    UnknownVersion,
)
from orchestrator.packages.uv import UvResult
from orchestrator.records import Alias, Environment, EnvironmentState
from orchestrator.sandboxes.backend import BuildEvent, Image
from orchestrator.telemetry import REGISTRY
from tests.unit.environments.conftest import Make, World, phases
from tests.unit.environments.fakes import lock_text, put_wheels

pytestmark = pytest.mark.anyio

NO_WHEELS = UvResult(1, "", "error: No solution found\n  cause: Because old has no usable wheels and you require old")
UNKNOWN = UvResult(1, "", "error: No solution found\n  cause: Because old was not found in the package registry")
NO_INDEX = UvResult(
    2, "", "error: Request failed after 3 retries\n  cause: Failed to fetch: https://pypi.org/simple/a/"
)


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


@pytest.mark.parametrize("member", ["base", "runner"])
async def test_a_lock_that_says_another_base_or_runner_of_what_it_was_built_on_is_refused(
    world: World, member: str
) -> None:
    document = lock_of(await world.built("numpy"))
    with pytest.raises(InvalidRequest, match="was changed") as refused:
        await world.environments.remake("python", replace(document, **{member: "another"}))
    assert refused.value.field == f"lock.{member}"


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
