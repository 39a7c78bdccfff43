"""Fixtures of the suites that need a Docker engine. What they make on it goes away with the run, but for runner images:
other servers of the engine build on them, and one that lost its name just then would fail their builds."""

import asyncio
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import docker
import docker.errors
import pytest

from orchestrator.sandboxes.backend import BuildOrder, Image, Interpreter
from orchestrator.sandboxes.docker.backend import DockerBackend
from orchestrator.settings import Settings
from tests.conftest import engine_required

# Any with a python3 will do; the first that the engine has is taken. `scripts/base-image` makes the first two.
BASES = ("kodou-base:bookworm", "kodou-base:trixie", "python:3.12-slim", "python:3.13-slim")


@dataclass(frozen=True)
class DockerBase:
    """What a run works with on the engine."""

    engine: docker.APIClient
    name: str  # of the base image
    interpreter: Interpreter
    image: Image  # a bare environment on it


def docker_settings(data_dir: Path, base: str, **others: object) -> Settings:
    return Settings(data_dir=data_dir, backend="docker", base_images=(base,), **others)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def docker_base() -> Iterator[DockerBase]:
    try:
        engine = docker.APIClient(**docker.utils.kwargs_from_env(), timeout=60)
    except docker.errors.DockerException as exc:
        _unavailable(f"no Docker engine answers: {exc}")
    try:
        yield from _prepared(engine)
    finally:
        engine.close()


@pytest.fixture(scope="session")
def docker_runtime() -> str | None:
    """The engine's own. A module of tests for another runtime overrides this."""
    return None


@pytest.fixture(scope="session")
def gvisor(docker_base: DockerBase) -> str:
    """The name of the runtime, where the engine has it."""
    name = "runsc"
    if name not in docker_base.engine.info()["Runtimes"]:
        _unavailable("the engine has no runtime runsc: scripts/gvisor installs it")
    return name


@pytest.fixture
async def docker_backend(
    docker_base: DockerBase, open_tmp_path: Path, docker_runtime: str | None
) -> AsyncIterator[DockerBackend]:
    """A backend over a data directory of its own, its interpreter prepared; what it still has running is stopped."""
    settings = docker_settings(open_tmp_path / "data", docker_base.name, docker_runtime=docker_runtime)
    backend = DockerBackend(settings)
    await backend.images.prepare()
    yield backend
    for sandbox in await backend.owned({}):
        await backend.stop(sandbox)
    await backend.aclose()


def _prepared(engine: docker.APIClient) -> Iterator[DockerBase]:
    base = os.environ.get("KODOU_TEST_BASE_IMAGE") or next((name for name in BASES if _has(engine, name)), None)
    if base is None:
        _unavailable("the engine has no base image: scripts/base-image makes one")
    data_dir = Path(tempfile.mkdtemp(prefix="kodou-test-"))
    try:
        # In a thread: a test's own event loop may be what asks for this fixture.
        with ThreadPoolExecutor(1) as thread:
            made = thread.submit(lambda: asyncio.run(_bare_image(docker_settings(data_dir, base))))
            interpreter, image = made.result()
        yield DockerBase(engine, base, interpreter, image)
        engine.remove_image(image.ref, force=True)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


async def _bare_image(settings: Settings) -> tuple[Interpreter, Image]:
    backend = DockerBackend(settings)
    try:
        await backend.images.prepare()
        (interpreter,) = await backend.images.interpreters()
        environment_id = f"test-{secrets.token_hex(6)}"
        async for _ in backend.images.build(build_order(environment_id, interpreter)):
            pass
        image = await backend.images.find(environment_id)
        assert image is not None
        return interpreter, image
    finally:
        await backend.aclose()


def build_order(
    environment_id: str, interpreter: Interpreter, *files: Path, from_source: bool = False, timeout_s: float = 240
) -> BuildOrder:
    return BuildOrder(
        environment_id=environment_id,
        interpreter=interpreter,
        files=files,
        from_source=from_source,
        labels={},
        timeout_s=timeout_s,
        log_tail_bytes=16_384,
    )


def _has(engine: docker.APIClient, name: str) -> bool:
    try:
        engine.inspect_image(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def _unavailable(reason: str) -> None:
    """A missing engine: a failure in CI, else no more than a skip."""
    if engine_required():
        pytest.fail(reason)
    pytest.skip(reason)
