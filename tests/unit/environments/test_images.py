import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.environments.images import Inventory
from orchestrator.environments.locks import EnvironmentLocks
from orchestrator.records import Environment, EnvironmentState, Resources, Session, SessionState
from orchestrator.sandboxes.backend import Sandbox
from orchestrator.sandboxes.instance import instance_id
from orchestrator.sandboxes.labels import INSTANCE_LABEL, POOLED, SESSION_LABEL
from orchestrator.settings import Settings
from orchestrator.store.memory import MemoryStore
from orchestrator.telemetry import REGISTRY
from tests.unit.environments.fakes import FakeImages, settings_in

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)
DAY_S = 86_400.0


class FakeBackend:
    """`sandboxes`: those that it owns, which hold their images."""

    def __init__(self, images: FakeImages) -> None:
        self.images = images
        self.sandboxes: list[Sandbox] = []

    def start(self, environment_id: str, session: str, **labels: str) -> Sandbox:
        labels = {SESSION_LABEL: session, **labels}
        self.sandboxes.append(Sandbox(secrets.token_hex(16), "fake", environment_id, {}, labels))
        self.images.held.add(environment_id)
        return self.sandboxes[-1]

    async def owned(self, labels: Mapping[str, str]) -> list[Sandbox]:
        return [sandbox for sandbox in self.sandboxes if labels.items() <= sandbox.labels.items()]

    async def stop(self, sandbox: Sandbox) -> None:
        self.sandboxes.remove(sandbox)
        self.images.held = {each.environment_id for each in self.sandboxes}


class World:
    """Images "a" to "d", used 1, 2, 3 and 4 days ago; 100 bytes each; "a" least often."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = MemoryStore()
        self.images = FakeImages()
        self.backend = FakeBackend(self.images)
        self.inventory = Inventory(settings, self.store, self.backend)  # type: ignore[arg-type]

    async def fill(self) -> "World":
        for days, id in enumerate("abcd", start=1):
            image = self.images.add(id, created_at=NOW - timedelta(days=10))
            await self.store.add(
                Environment(
                    id=id,
                    language="python",
                    version="3.12.4",
                    packages={"p": "1"},
                    lock="",
                    backend="fake",
                    image_ref=image.ref,
                    size_bytes=100,
                    state=EnvironmentState.READY,
                    reason="",
                    since=NOW,
                    created_at=NOW - timedelta(days=10),
                    last_used_at=NOW - timedelta(days=days),
                    uses=days,
                )
            )
        return self

    async def session(self, environment_id: str, state: SessionState = SessionState.READY) -> Session:
        session = Session(
            id=f"s-{environment_id}-{state}",
            owner="o",
            key_id="k",
            environment_id=environment_id,
            resources=Resources(512, 1, 128, 256),
            network="none",
            env={},
            ttl_s=60,
            state=state,
            reason="",
            since=NOW,
            created_at=NOW,
            last_used_at=NOW,
            expires_at=NOW,
        )
        await self.store.add(session)
        return session

    async def states(self) -> dict[str, str]:
        return {each.id: str(each.state) for each in await self.store.list(Environment)}


@pytest.fixture
async def world(open_tmp_path: Path) -> World:
    return await World(settings_in(open_tmp_path)).fill()


async def test_images_are_listed_last_used_first_with_all_that_is_known(world: World) -> None:
    await world.session("b")
    world.images.add("unrecorded", created_at=NOW - timedelta(days=9), labels={"io.kodou.version": "3.11.2"})
    reports = await world.inventory.list()
    assert [report.environment_id for report in reports] == ["a", "b", "c", "d", "unrecorded"]
    assert [report.in_use for report in reports] == [False, True, False, False, False]
    first, last = reports[0], reports[-1]
    assert (first.version, first.packages, first.uses, first.size_bytes) == ("3.12.4", {"p": "1"}, 1, 100)
    assert (last.version, last.packages, last.uses, last.last_used_at) == ("3.11.2", {}, 0, NOW - timedelta(days=9))
    assert REGISTRY.get_sample_value("kodou_images") == 5
    assert REGISTRY.get_sample_value("kodou_image_bytes") == 500


@pytest.mark.parametrize(
    ("criteria", "picked"),
    [
        ({}, []),
        ({"all": True}, ["d", "c", "b", "a"]),
        ({"older_than_s": 2.5 * DAY_S}, ["d", "c"]),
        ({"older_than_s": 30 * DAY_S}, []),
        ({"budget_bytes": 400}, []),
        ({"budget_bytes": 399}, ["d"]),
        ({"budget_bytes": 150}, ["d", "c", "b"]),
        ({"budget_bytes": 0}, ["d", "c", "b", "a"]),
        ({"least_used": 1}, ["a"]),
        ({"least_used": 2}, ["b", "a"]),
        ({"least_used": 0}, []),
        ({"older_than_s": 3.5 * DAY_S, "least_used": 1}, ["d", "a"]),
        ({"least_used": 1, "budget_bytes": 200}, ["d", "a"]),
    ],
)
async def test_what_is_pruned_follows_the_criteria(criteria: dict[str, float], picked: list[str], world: World) -> None:
    planned = await world.inventory.prune(**criteria, dry_run=True)  # type: ignore[arg-type]
    assert [each.environment_id for each in planned] == picked
    assert {each.kept for each in planned} <= {"dry run"}
    assert sorted(world.images.images) == ["a", "b", "c", "d"]
    pruned = await world.inventory.prune(**criteria)  # type: ignore[arg-type]
    assert [(each.environment_id, each.kept) for each in pruned] == [(id, None) for id in picked]
    assert set(world.images.images) == set("abcd") - set(picked)
    assert await world.states() == {id: "pruned" if id in picked else "ready" for id in "abcd"}
    assert REGISTRY.get_sample_value("kodou_images") == 4 - len(picked)


@pytest.mark.parametrize("state", [state for state in SessionState if state is not SessionState.CLOSED])
async def test_what_a_session_stands_on_stays(state: SessionState, world: World) -> None:
    await world.session("d", state)
    pruned = await world.inventory.prune(all=True, budget_bytes=0, least_used=9, older_than_s=0)
    assert [each.environment_id for each in pruned] == ["c", "b", "a"]
    assert list(world.images.images) == ["d"]


async def test_a_closed_session_holds_nothing(world: World) -> None:
    await world.session("d", SessionState.CLOSED)
    await world.inventory.prune(all=True)
    assert world.images.images == {}


async def test_what_is_held_counts_towards_the_budget(world: World) -> None:
    await world.session("d")
    pruned = await world.inventory.prune(budget_bytes=200)
    assert [each.environment_id for each in pruned] == ["c", "b"]


async def test_what_a_build_or_a_sandbox_holds_is_kept_and_told(world: World) -> None:
    world.images.held.add("c")
    async with EnvironmentLocks(world.settings.data_dir).held("d"):
        pruned = await world.inventory.prune(all=True)
    assert {each.environment_id: each.kept for each in pruned} == {
        "d": "a build holds it",
        "c": "a sandbox uses it",
        "b": None,
        "a": None,
    }
    assert await world.states() == {"a": "pruned", "b": "pruned", "c": "ready", "d": "ready"}


async def test_a_session_opened_meanwhile_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = await world.session("d", SessionState.CLOSED)
    remove = world.images.remove

    async def opens_another(image: object) -> bool:
        (session,) = await world.store.list(Session)
        assert await world.store.replace(replace(session, environment_id="c", state=SessionState.READY), expected=0)
        monkeypatch.setattr(world.images, "remove", remove)
        return await remove(image)  # type: ignore[arg-type]

    monkeypatch.setattr(world.images, "remove", opens_another)
    pruned = await world.inventory.prune(all=True)
    assert opened.environment_id == "d"
    assert {each.environment_id: each.kept for each in pruned}["c"] == "a session holds it"
    assert list(world.images.images) == ["c"]


async def test_an_image_without_a_record_can_go(world: World) -> None:
    world.images.add("unrecorded", created_at=NOW - timedelta(days=90))
    pruned = await world.inventory.prune(older_than_s=30 * DAY_S)
    assert [(each.environment_id, each.kept, each.reason) for each in pruned] == [("unrecorded", None, "age")]


async def test_warm_sandboxes_end_with_their_image_and_nobody_elses_do(world: World) -> None:
    mine = {INSTANCE_LABEL: instance_id(world.settings.data_dir)}
    world.backend.start("a", POOLED, **mine)
    world.backend.start("a", POOLED, **mine)
    kept = (
        world.backend.start("b", "of a session", **mine),
        world.backend.start("c", POOLED, **{INSTANCE_LABEL: "f" * 16}),
    )
    pruned = await world.inventory.prune(all=True)
    assert {each.environment_id: each.kept for each in pruned} == {
        "a": None,
        "b": "a sandbox uses it",
        "c": "a sandbox uses it",
        "d": None,
    }
    assert tuple(world.backend.sandboxes) == kept


async def test_warm_sandboxes_of_an_environment_that_a_session_stands_on_are_kept(world: World) -> None:
    kept = world.backend.start("a", POOLED, **{INSTANCE_LABEL: instance_id(world.settings.data_dir)})
    await world.session("a")
    await world.inventory.prune(all=True)
    assert world.backend.sandboxes == [kept]


async def test_a_warm_sandbox_claimed_meanwhile_stays_with_its_image(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {INSTANCE_LABEL: instance_id(world.settings.data_dir)}
    first, second = (world.backend.start("a", POOLED, **mine) for _ in range(2))
    stop = world.backend.stop

    async def stop_while_the_other_is_claimed(sandbox: Sandbox) -> None:
        await world.session("a")
        await stop(sandbox)

    monkeypatch.setattr(world.backend, "stop", stop_while_the_other_is_claimed)
    pruned = await world.inventory.prune(all=True)
    assert {each.environment_id: each.kept for each in pruned}["a"] == "a session holds it"
    assert world.backend.sandboxes == [second]
    assert first not in world.backend.sandboxes
    assert list(world.images.images) == ["a"]
    assert (await world.states())["a"] == "ready"


async def test_a_claim_between_listing_and_stopping_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = world.backend.start("d", POOLED, **{INSTANCE_LABEL: instance_id(world.settings.data_dir)})
    owned = world.backend.owned

    async def claimed_just_then(labels: Mapping[str, str]) -> list[Sandbox]:
        found = await owned(labels)
        if not await world.store.list(Session):
            await world.session("d")
        return found

    monkeypatch.setattr(world.backend, "owned", claimed_just_then)
    pruned = await world.inventory.prune(all=True)
    assert {each.environment_id: each.kept for each in pruned}["d"] == "a session holds it"
    assert world.backend.sandboxes == [claimed]


async def test_the_image_stays_for_a_session_whose_warm_sandbox_was_stopped_as_it_was_claimed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backend.start("a", POOLED, **{INSTANCE_LABEL: instance_id(world.settings.data_dir)})
    stop = world.backend.stop

    async def stop_in_that_moment(sandbox: Sandbox) -> None:
        await stop(sandbox)
        await world.session("a")

    monkeypatch.setattr(world.backend, "stop", stop_in_that_moment)
    pruned = await world.inventory.prune(all=True)
    assert {each.environment_id: each.kept for each in pruned}["a"] == "a session holds it"
    assert list(world.images.images) == ["a"]
