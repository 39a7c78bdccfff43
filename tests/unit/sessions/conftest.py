"""A data directory, a store and an engine that outlive the managers started on them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from runner import frames

from orchestrator.auth.keys import Principal
from orchestrator.auth.tokens import Tokens
from orchestrator.records import Environment, EnvironmentState, Resources, Session
from orchestrator.sandboxes.replies import Reply, Value
from orchestrator.sandboxes.work import Work
from orchestrator.sessions.manager import CallOutcome, Opened, SessionManager, SessionOptions
from orchestrator.settings import Settings
from orchestrator.store.memory import MemoryStore
from tests.unit.sessions.fakes import FakeBackend, image

ALICE = Principal("a" * 32, "alice", frozenset({"setup", "call"}))
BOB = Principal("b" * 32, "bob", frozenset({"setup", "call"}))
NOW = datetime(2030, 1, 1, tzinfo=UTC)
ENVIRONMENT = Environment(
    id="py3.12-0",
    language="python",
    version="3.12.4",
    packages={},
    lock="",
    backend="fake",
    image_ref="img",
    size_bytes=1,
    state=EnvironmentState.READY,
    reason="",
    since=NOW,
    created_at=NOW,
    last_used_at=NOW,
)
OPTIONS = SessionOptions(Resources(memory_mb=128, cpus=1.0, pids=64, disk_mb=3), "none", {"A": "1"}, ttl_s=60)


@dataclass
class World:
    settings: Settings
    store: MemoryStore = field(default_factory=MemoryStore)
    backend: FakeBackend = field(default_factory=FakeBackend)
    managers: list[SessionManager] = field(default_factory=list)

    @property
    def manager(self) -> SessionManager:
        return self.managers[-1]

    async def start(self, **changes: object) -> SessionManager:
        """A server on this data directory; the one before it must have ended."""
        self.settings = self.settings.model_copy(update=changes)
        manager = SessionManager(self.settings, self.store, self.backend, Tokens.load(self.settings.data_dir))
        self.managers.append(manager)
        await manager.start()
        return manager

    async def crash(self) -> None:
        """Nothing is written, nothing is stopped: the server is gone, its connections with it."""
        manager = self.manager
        manager._reaping.cancel()
        manager._claim.release()
        for live in manager._registry:
            if live.channel is not None:
                await live.channel.aclose()

    async def open(self, principal: Principal = ALICE, options: SessionOptions = OPTIONS) -> Opened:
        return await self.manager.open(principal, ENVIRONMENT, image(ENVIRONMENT.id), options)

    async def call(self, sessionid: str, principal: Principal = ALICE, body: bytes = b"x") -> CallOutcome:
        return await self.manager.call(sessionid, principal, Work(frames.CALL, body), timeout_s=5)

    async def stored(self, id: str) -> Session:
        found = await self.store.get(Session, id)
        assert found is not None
        return found

    async def settled(self) -> None:
        """What goes on behind is done."""
        await self.manager._background.finished(5)

    async def reap(self) -> None:
        """One pass of the reaper, and what it sets off."""
        await self.manager._reaper.reap()
        await self.settled()

    @asynccontextmanager
    async def under_call(self, opened: Opened) -> AsyncIterator[None]:
        """A call of the session runs meanwhile."""
        (sandbox,) = self.backend.of_session(opened.session.id)
        channel = self.backend.channels[sandbox.id]
        channel.hold = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self.call, opened.sessionid)
            await channel.entered.wait()
            yield
            channel.hold.set()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(Settings(data_dir=tmp_path, reap_interval_s=3600))
    await made.start()
    yield made
    for manager in made.managers:
        await manager.aclose()


def answered_by(reply: Reply) -> str:
    """Which sandbox gave the answer."""
    assert isinstance(reply, Value)
    return reply.body.split(b":")[0].decode()
