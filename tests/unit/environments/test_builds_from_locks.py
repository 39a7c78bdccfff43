"""Environments from a lock that somebody had from an environment."""

import asyncio
import json
from dataclasses import replace

import pytest

from orchestrator.environments.builds import Built
from orchestrator.environments.lock import Lock
from orchestrator.environments.lock_document import LockDocument
from orchestrator.errors import DependencyUnresolvable, InvalidRequest, UnknownVersion
from orchestrator.packages.index import Index
from orchestrator.packages.uv import UvResult
from orchestrator.records import Environment
from tests.unit.environments.conftest import Make, World
from tests.unit.environments.fakes import interpreter, lock_text

pytestmark = pytest.mark.anyio

UNKNOWN = UvResult(1, "", "error: No solution found\n  cause: Because old was not found in the package registry")


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
