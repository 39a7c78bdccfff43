"""Against a real package index: what uv says, what the index serves, and what kodou makes of both."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from orchestrator.environments.builds import Environments
from orchestrator.environments.lock import Lock, environment_id
from orchestrator.environments.lock_document import LockDocument
from orchestrator.environments.python import PythonBuilder
from orchestrator.environments.wheels import WheelStore
from orchestrator.errors import BuildFailed, DependencyUnresolvable, IndexUnavailable
from orchestrator.packages.index import Index
from orchestrator.packages.uv import ca_bundle
from orchestrator.sandboxes.backend import BuildEvent
from orchestrator.settings import Settings
from orchestrator.store.memory import MemoryStore
from tests.conftest import engine_required
from tests.unit.environments.fakes import FakeImages, interpreter, settings_in

pytestmark = [pytest.mark.anyio, pytest.mark.index]

SOURCE_ONLY = ["docopt==0.6.2", "termcolor==1.1.0", "wget==3.2"]
VERSIONS = ["3.11.2", "3.13.5"]


@pytest.fixture
async def settings(open_tmp_path: Path) -> Settings:
    settings = settings_in(open_tmp_path / "data")
    authorities = ssl.create_default_context(cafile=ca_bundle(settings))
    try:
        async with httpx.AsyncClient(verify=authorities, proxy=settings.index_proxy, trust_env=False) as client:
            await client.head(f"{Index.of(settings).url}/six/")
    except httpx.TransportError as exc:
        if engine_required():
            raise
        pytest.skip(f"no package index: {exc}")
    return settings


@pytest.fixture
def images() -> FakeImages:
    return FakeImages()


@pytest.fixture
async def builder(settings: Settings, images: FakeImages) -> AsyncIterator[PythonBuilder]:
    builder = PythonBuilder(settings, images)
    yield builder
    await builder.aclose()


async def fetched(builder: PythonBuilder, lock: Lock) -> list[BuildEvent]:
    async with aclosing(builder.fetch(lock)) as events:
        return [event async for event in events]


@pytest.mark.parametrize("version", VERSIONS)
async def test_numpy_is_locked_for_each_interpreter_and_fetched(version: str, builder: PythonBuilder) -> None:
    lock = await builder.lock(interpreter(version), ["numpy"])
    assert set(lock.packages) == {"numpy"}
    assert not lock.from_source
    (file,) = lock.files
    assert f"cp{version[0]}{version[2:4]}-" in file.filename
    assert file.filename.endswith("_x86_64.whl")
    events = await fetched(builder, lock)
    (path,) = builder.files(lock)
    size = (await asyncio.to_thread(path.stat)).st_size
    assert events[-1] == BuildEvent("fetch", package="numpy", bytes=size, total=size)
    assert size > 1_000_000


async def test_one_request_has_one_environment_whatever_its_day(builder: PythonBuilder) -> None:
    here = interpreter("3.12.4")
    first = await builder.lock(here, ["requests[socks]>=2.31,<3", 'tomli; python_version < "3.11"'])
    assert {"requests", "pysocks", "urllib3", "idna", "certifi", "charset-normalizer"} == set(first.packages)
    second = await builder.lock(here, ["pysocks", "requests[socks]>=2.31,<3"])
    assert environment_id(first, here) == environment_id(second, here)
    assert environment_id(await builder.parse(first.text, here), here) == environment_id(first, here)


async def test_releases_after_a_date_can_be_ignored(settings: Settings, images: FakeImages) -> None:
    dated = settings.model_copy(update={"exclude_newer": "2024-01-01T00:00:00Z"})
    lock = await PythonBuilder(dated, images).lock(interpreter("3.12.4"), ["requests"])
    assert lock.packages["requests"] == "2.31.0"


async def test_a_file_that_is_not_the_locked_one_is_refused(settings: Settings, builder: PythonBuilder) -> None:
    lock = await builder.lock(interpreter("3.12.4"), ["six"])
    store = WheelStore(settings)
    forged = replace(lock.files[0], sha256="0" * 64)
    with pytest.raises(BuildFailed, match="SHA-256"):
        async for _ in store.fetch([forged]):
            pass
    await store.aclose()
    assert not list(settings.wheels_dir.rglob("*.whl"))


@pytest.mark.parametrize(
    ("dependency", "words"),
    [
        ("kodou-no-such-package-4711", "not found in the package registry"),
        ("six==99.99", "no version of six==99.99"),
        ("numpy==2.4.6,<2", "incompatible"),
        ("torch==1.0.0", "ABI tag"),
    ],
)
async def test_what_has_no_solution_is_explained_and_no_sandbox_is_tried(
    dependency: str, words: str, builder: PythonBuilder, images: FakeImages, settings: Settings
) -> None:
    with pytest.raises(DependencyUnresolvable, match=words) as caught:
        await builder.lock(interpreter("3.12.4"), [dependency])
    assert type(caught.value) is DependencyUnresolvable
    assert str(settings.data_dir) not in caught.value.detail
    assert images.sandbox_locks == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dependency", SOURCE_ONLY)
async def test_a_set_without_wheels_is_handed_to_a_sandbox(
    dependency: str, version: str, builder: PythonBuilder, images: FakeImages
) -> None:
    images.failure = BuildFailed("stands for the sandbox", log_tail="")
    with pytest.raises(BuildFailed, match="stands for"):
        await builder.lock(interpreter(version), ["six", dependency])
    assert images.sandbox_locks == [["six", dependency]]


async def test_a_set_without_wheels_is_refused_where_source_builds_are(settings: Settings, images: FakeImages) -> None:
    strict = settings.model_copy(update={"allow_source_builds": False})
    with pytest.raises(DependencyUnresolvable, match="nothing from source"):
        await PythonBuilder(strict, images).lock(interpreter("3.12.4"), SOURCE_ONLY[:1])
    assert images.sandbox_locks == []


async def test_a_lock_document_finds_the_very_files_again_whatever_is_newer_by_now(
    settings: Settings, builder: PythonBuilder
) -> None:
    on = interpreter("3.12.4")
    old = PythonBuilder(settings.model_copy(update={"exclude_newer": "2025-01-01T00:00:00Z"}), FakeImages())
    first = await old.lock(on, ["pandas", "requests"])
    document = LockDocument.of(environment_id(first, on), first, on, index="")
    again = await builder.relock(on, LockDocument.read(document.members()).files)
    assert [replace(file, size=None) for file in again.files] == [replace(file, size=None) for file in first.files]
    assert environment_id(again, on) == document.environment_id
    assert len(await fetched(builder, again)) >= len(again.files)


async def test_a_lock_document_of_what_the_index_has_not_cannot_be_resolved(builder: PythonBuilder) -> None:
    on = interpreter("3.12.4")
    (six,) = (await builder.lock(on, ["six==1.16.0"])).files
    for other in (
        replace(six, sha256="0" * 64),
        replace(six, filename="six-1.16.0-py3-none-any.whl"),
        replace(six, version="1.16.1", filename="six-1.16.1-py2.py3-none-any.whl"),
        replace(six, name="kodou-no-such-package", filename="kodou_no_such_package-1.16.0-py3-none-any.whl"),
    ):
        with pytest.raises(DependencyUnresolvable):
            await builder.relock(on, [other])


@pytest.mark.slow  # uv tries for a while before it gives up
@pytest.mark.parametrize("url", ["https://index.invalid/simple", "https://user:secret@127.0.0.1:9/simple"])
async def test_an_index_out_of_reach_is_told_without_its_credentials(
    url: str, settings: Settings, images: FakeImages
) -> None:
    unreachable = settings.model_copy(update={"index_url": url})
    with pytest.raises(IndexUnavailable) as caught:
        await PythonBuilder(unreachable, images).lock(interpreter("3.12.4"), ["six"])
    assert "secret" not in caught.value.detail


async def test_a_setup_is_resolved_fetched_and_then_known(settings: Settings, images: FakeImages) -> None:
    environments = Environments(settings, MemoryStore(), images, backend="fake")
    first = await (await environments.setup("python", "3.12", ["NumPy"])).result()
    second = await (await environments.setup("python", "3.12", ["numpy"])).result()
    await environments.aclose()
    assert (first.reused, second.reused) == (False, True)
    assert second.environment == first.environment
    (order,) = images.orders
    assert [path.is_file() for path in order.files] == [True]
