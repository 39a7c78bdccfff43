"""Fixtures of the suites that need bubblewrap. What they make goes away with the run."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.sandboxes.backend import BuildOrder, Image
from orchestrator.sandboxes.bubblewrap.backend import BubblewrapBackend, check
from orchestrator.settings import Settings
from tests.conftest import engine_required


@dataclass(frozen=True)
class BubblewrapData:
    """A data directory with the image of a bare interpreter in it."""

    settings: Settings
    image: Image


@pytest.fixture(scope="session")
def bubblewrap_data() -> Iterator[BubblewrapData]:
    data_dir = Path(tempfile.mkdtemp(prefix="kodou-test-bubblewrap-"))
    data_dir.chmod(0o711)
    settings = Settings(data_dir=data_dir, backend="bubblewrap")
    try:
        # In a thread, as a test's own loop may be running when the fixture is asked for.
        with ThreadPoolExecutor(1) as thread:
            image = thread.submit(asyncio.run, _bare_image(settings)).result()
        yield BubblewrapData(settings, image)
    finally:
        shutil.rmtree(data_dir)


@pytest.fixture
async def bubblewrap_backend(bubblewrap_data: BubblewrapData) -> AsyncIterator[BubblewrapBackend]:
    """A backend over the run's data directory, its interpreters prepared; what it still has running is stopped."""
    backend = BubblewrapBackend(bubblewrap_data.settings)
    await backend.images.prepare()
    yield backend
    for sandbox in await backend.owned({}):
        await backend.stop(sandbox)
    await backend.aclose()


async def _bare_image(settings: Settings) -> Image:
    reason = await check(settings)
    if reason is not None:
        _unavailable(reason)
    backend = BubblewrapBackend(settings)
    await backend.images.prepare()
    interpreter = (await backend.images.interpreters())[0]
    order = BuildOrder("py-bare", interpreter, [], False, {}, timeout_s=240, log_tail_bytes=4096)
    async for _ in backend.images.build(order):
        pass
    image = await backend.images.find("py-bare")
    assert image is not None
    await backend.aclose()
    return image


def _unavailable(reason: str) -> None:
    if engine_required():
        pytest.fail(reason)
    pytest.skip(reason)
