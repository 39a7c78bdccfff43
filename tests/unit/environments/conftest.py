"""One server's environments, on fakes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.environments import python
from orchestrator.environments.builds import Build, Environments
from orchestrator.records import Alias, Environment
from orchestrator.settings import Settings
from orchestrator.store.memory import MemoryStore
from tests.unit.environments.fakes import FakeImages, FakeUv, settings_in


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
