"""The backends that the contract suite runs against, each with an image of a bare interpreter.

A further backend is one more context manager here and one more line in `CASES`.
"""

import asyncio
import json
import os
import secrets
import signal
import sys
import venv
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import runner

from orchestrator.driver.client import DriverBackend
from orchestrator.errors import NotFound
from orchestrator.sandboxes.backend import Image, Sandbox, SandboxBackend
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend
from orchestrator.sandboxes.directories.images import BuiltDirectory
from orchestrator.sandboxes.docker.backend import DockerBackend
from orchestrator.sandboxes.process import ProcessBackend
from orchestrator.settings import Settings
from tests.bubblewrap_fixtures import BubblewrapData
from tests.contract.marked import Marked
from tests.docker_fixtures import DockerBase, docker_settings
from tests.driver_fixtures import Driver


@dataclass(frozen=True)
class BackendCase:
    """One backend to hold to the contract."""

    backend: SandboxBackend
    image: Image
    settings: Settings
    renewed: Callable[[], SandboxBackend]  # another one over the same data directory, as after a crash
    kill: Callable[[Sandbox], Awaitable[None]]  # end a sandbox behind the backend's back
    labels: dict[str, str]  # which all that this run starts carries


# --- process ---


class VenvImages:
    """Images whose reference is a virtual environment's path."""

    def located(self, image: Image) -> BuiltDirectory:
        env = Path(image.ref)
        if not env.is_dir():
            msg = f"no environment at {env}"
            raise NotFound(msg)
        return BuiltDirectory(
            env=env, library=Path(runner.__file__).parent.parent, interpreter=Path(sys.executable).resolve()
        )


@pytest.fixture(scope="session")
def bare_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("environment") / "env"
    venv.create(path, with_pip=False, symlinks=True)
    return path


@asynccontextmanager
async def process_case(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[BackendCase]:
    settings = Settings(data_dir=data_dir, backend="process", allow_process_backend=True)
    image = bare_image("py-bare", ref=str(request.getfixturevalue("bare_venv")))

    async def kill(sandbox: Sandbox) -> None:
        os.kill(int(sandbox.data["pid"]), signal.SIGKILL)

    def renewed() -> ProcessBackend:
        return ProcessBackend(settings, VenvImages())

    yield BackendCase(renewed(), image, settings, renewed, kill, run_labels())


# --- docker ---


@asynccontextmanager
async def docker_case(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[BackendCase]:
    base: DockerBase = request.getfixturevalue("docker_base")
    settings = docker_settings(data_dir, base.name)

    async def kill(sandbox: Sandbox) -> None:
        await asyncio.to_thread(base.engine.kill, sandbox.data["container"])

    def renewed() -> DockerBackend:
        return DockerBackend(settings)

    yield BackendCase(renewed(), base.image, settings, renewed, kill, run_labels())


# --- bubblewrap ---


@asynccontextmanager
async def bubblewrap_case(request: pytest.FixtureRequest, _: Path) -> AsyncIterator[BackendCase]:
    data: BubblewrapData = request.getfixturevalue("bubblewrap_data")

    async def kill(sandbox: Sandbox) -> None:
        os.kill(int(sandbox.data["pid"]), signal.SIGKILL)

    def renewed() -> BubblewrapBackend:
        return BubblewrapBackend(data.settings)

    yield BackendCase(renewed(), data.image, data.settings, renewed, kill, run_labels())


# --- either of them behind a driver ---


@asynccontextmanager
async def driven_bubblewrap_case(request: pytest.FixtureRequest, _: Path) -> AsyncIterator[BackendCase]:
    data: BubblewrapData = request.getfixturevalue("bubblewrap_data")
    driver: Driver = request.getfixturevalue("bubblewrap_driver")

    async def kill(sandbox: Sandbox) -> None:
        handle = data.settings.data_dir / "handles" / "bubblewrap" / f"{sandbox.id}.json"
        os.kill(int(json.loads(handle.read_bytes())["data"]["pid"]), signal.SIGKILL)

    def renewed() -> DriverBackend:
        return DriverBackend(driver.socket, name="bubblewrap")

    yield BackendCase(renewed(), data.image, data.settings, renewed, kill, server_labels())


@asynccontextmanager
async def driven_docker_case(request: pytest.FixtureRequest, _: Path) -> AsyncIterator[BackendCase]:
    base: DockerBase = request.getfixturevalue("docker_base")
    driver: Driver = request.getfixturevalue("docker_driver")

    async def kill(sandbox: Sandbox) -> None:
        await asyncio.to_thread(base.engine.kill, f"kodou-{sandbox.id}")

    def renewed() -> DriverBackend:
        return DriverBackend(driver.socket, name="docker")

    yield BackendCase(renewed(), base.image, driver.settings, renewed, kill, server_labels())


# Those that promise to keep a sandbox in. (A list of its own, so that no test has to skip a backend that does not.)
ISOLATING = [
    pytest.param(docker_case, id="docker", marks=pytest.mark.docker),
    pytest.param(bubblewrap_case, id="bubblewrap", marks=pytest.mark.bubblewrap),
    pytest.param(driven_bubblewrap_case, id="driver-bubblewrap", marks=pytest.mark.bubblewrap),
]
CASES = [
    pytest.param(process_case, id="process"),
    *ISOLATING,
    # Not among those above: what it isolates with is docker's own, and was looked at there.
    pytest.param(driven_docker_case, id="driver-docker", marks=pytest.mark.docker),
]


def bare_image(environment_id: str, *, ref: str) -> Image:
    return Image(environment_id, ref, size_bytes=0, created_at=datetime.now(UTC), labels={})


def run_labels() -> dict[str, str]:
    return {"io.kodou.test-run": secrets.token_hex(8)}


def server_labels() -> dict[str, str]:
    """A driver lets no label through but those that servers use."""
    return {"io.kodou.instance": secrets.token_hex(8)}


@asynccontextmanager
async def _swept(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[BackendCase]:
    """Whatever a test leaves running is stopped, and fails no other."""
    async with request.param(request, data_dir) as case:
        yield case
        for sandbox in await case.backend.owned(case.labels):
            await case.backend.stop(sandbox)
        await case.backend.aclose()


@pytest.fixture(params=CASES)
async def backend_case(request: pytest.FixtureRequest, open_tmp_path: Path) -> AsyncIterator[BackendCase]:
    """The backend under test."""
    async with _swept(request, open_tmp_path / "data") as case:
        yield case


@pytest.fixture(params=ISOLATING)
async def isolating_case(request: pytest.FixtureRequest, open_tmp_path: Path) -> AsyncIterator[BackendCase]:
    """The backend under test, one that isolates."""
    async with _swept(request, open_tmp_path / "data") as case:
        yield case


@pytest.fixture
def marked() -> Marked:
    return Marked(f"marked-{secrets.token_hex(8)}")
