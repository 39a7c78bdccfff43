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
