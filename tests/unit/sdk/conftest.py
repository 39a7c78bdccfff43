"""Environments of the SDK on a runner in this process."""

from collections.abc import AsyncIterator, Iterator

import kodou
import pytest

from tests.unit.sdk.loopback import Loopback


@pytest.fixture
def loopback() -> Loopback:
    return Loopback()


@pytest.fixture
def client(loopback: Loopback) -> Iterator[kodou.Client]:
    with kodou.Client("http://host", "token", transport=loopback) as client:
        yield client


@pytest.fixture
def env(client: kodou.Client) -> Iterator[kodou.Environment]:
    with kodou.Environment(["numpy"], client=client) as env:
        yield env


@pytest.fixture
async def aenv(loopback: Loopback) -> AsyncIterator[kodou.aio.Environment]:
    async with (
        kodou.AsyncClient("http://host", "token", transport=loopback) as client,
        kodou.aio.Environment(["numpy"], client=client) as env,
    ):
        yield env
