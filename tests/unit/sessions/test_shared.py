"""Shared sandboxes: how many start, and how many stand empty. The test plays their process 1, which may be hostile."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from runner import frames

from orchestrator.errors import SandboxLost
from orchestrator.records import Resources, Session, SessionState
from orchestrator.sandboxes.backend import Image, Sandbox, SandboxSpec
from orchestrator.sandboxes.channel import RunnerChannel
from orchestrator.sandboxes.link import Link
from orchestrator.sessions.background import Background
from orchestrator.sessions.shared import SharedSandboxes, _Group, _Host, _Key
from orchestrator.settings import Settings
from tests.security.fake_runner import PATIENCE_S, Connection, FakeRunner
from tests.unit.sessions.conftest import NOW
from tests.unit.sessions.fakes import FakeBackend, image

pytestmark = pytest.mark.anyio

IMAGE = image("py")
PRELOADED = b'{"modules": [], "bytes": 1}'
PRELOADED = frames.HEADER.pack(frames.PRELOADED, b"\0\0\0", len(PRELOADED), 0, 0) + PRELOADED


class SharingFake(FakeBackend):
    """Its sandboxes have slots: a task plays process 1 of each, and the supervisors of its slots."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.starts = 0
        self.preloaded = PRELOADED  # what process 1 writes when it has imported
        self.slot_error: OSError | None = None
        self.asked: list[int] = []  # kinds of frames that came to any process 1
        self._playing: set[asyncio.Task[None]] = set()

    async def start(self, image: Image, spec: SandboxSpec, *, labels: Mapping[str, str]) -> Sandbox:
        self.starts += 1
        sandbox = await super().start(image, spec, labels=labels)
        self.sandboxes[sandbox.id] = replace(sandbox, data={"uid": "2000000", "uids": "64"})
        return self.sandboxes[sandbox.id]

    async def open_link(self, sandbox: Sandbox) -> Link:
        link = Link.create(self.run_dir, sandbox.id)
        task = asyncio.create_task(self._play(link.directory))
        self._playing.add(task)
        task.add_done_callback(self._playing.discard)
        return link

    async def open_slot(self, sandbox: Sandbox, slot: str, number: int) -> Link:
        if self.slot_error is not None:
            raise self.slot_error
        return Link.create(self.run_dir / sandbox.id, slot)

    async def close_slot(self, sandbox: Sandbox, slot: str) -> None:
        Link.remove(self.run_dir / sandbox.id, slot)

    async def ended(self) -> None:
        await asyncio.wait_for(asyncio.gather(*self._playing), PATIENCE_S)

    async def _play(self, directory: Path) -> None:
        connection = await FakeRunner(directory).supervisor()
        supervisors: dict[str, Connection] = {}
        try:
            while True:
                frame = await connection.receive()
                self.asked.append(frame.kind)
                if frame.kind == frames.PRELOAD:
                    await connection.send(self.preloaded)
                elif frame.kind == frames.ADD:
                    slot = json.loads(frame.body)["slot"]
                    supervisors[slot] = await FakeRunner(directory / slot).supervisor()
                elif frame.kind == frames.REMOVE:
                    slot = json.loads(frame.body)["slot"]
                    supervisors.pop(slot).close()
                    await connection.send_frame(frames.REMOVED, json.dumps({"slot": slot, "clean": True}).encode())
        except (asyncio.IncompleteReadError, ConnectionError):  # it was stopped
            for each in (connection, *supervisors.values()):
                each.close()


class World:
    def __init__(self, backend: SharingFake, **settings: object) -> None:
        self.backend = backend
        self.background = Background()
        made = Settings(data_dir=backend.run_dir, share_sandboxes="owner").model_copy(update=settings)
        self.shared = SharedSandboxes(made, backend, {}, self.background)
        self._open: list[RunnerChannel] = []

    async def open(self, owner: str = "alice", *, memory_mb: int = 128) -> Sandbox:
        resources = Resources(memory_mb, 1.0, 64, 3)
        session = Session(
            "5" * 32, owner, "k" * 32, "py", resources, "none", {}, 60, SessionState.STARTING, "", NOW, NOW, NOW,
            NOW + timedelta(days=1),
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_S):
            slot, channel = await self.shared.open(IMAGE, session, ("tiny",))
        self._open.append(channel)
        return slot

    def running(self) -> list[str]:
        """Shared sandboxes, the first that started first."""
        return list(self.backend.sandboxes)

    async def aclose(self) -> None:
        for channel in self._open:
            await channel.aclose()
        await self.background.finished(PATIENCE_S)
        await self.shared.aclose()
        await self.backend.ended()
        assert not self.backend.sandboxes


@pytest.fixture
async def world(open_tmp_path: Path) -> AsyncIterator[World]:
    found = World(SharingFake(open_tmp_path), pool_sandboxes=2)
    yield found
    await found.aclose()


async def test_a_process_1_that_ends_with_its_answer_ends_the_session_that_waits(world: World) -> None:
    world.backend.preloaded = PRELOADED + b"garbage" * 100  # in one write, so that both are read at once
    for starts in (1, 2):
        with pytest.raises(SandboxLost):
            await world.open()
        assert world.backend.starts == starts
    await world.background.finished(PATIENCE_S)
    assert not world.running()


async def test_of_sandboxes_that_end_once_started_a_session_sees_two(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = world.shared._start

    async def lost(key: _Key, group: _Group, image: Image) -> _Host:
        host = await start(key, group, image)
        host.channel._end("the test says so")
        return host

    monkeypatch.setattr(world.shared, "_start", lost)
    with pytest.raises(SandboxLost, match="as soon as they have started"):
        await world.open()
    assert world.backend.starts == 2
    await world.background.finished(PATIENCE_S)
    assert not world.running()


async def test_sandboxes_that_others_filled_are_no_failures(open_tmp_path: Path) -> None:
    world = World(SharingFake(open_tmp_path), max_sessions_per_sandbox=1)
    await asyncio.gather(*(world.open() for _ in range(5)))
    assert world.backend.starts == 5
    await world.aclose()


async def test_an_owner_has_one_empty_sandbox(world: World) -> None:
    slots = [await world.open(memory_mb=128 + number) for number in range(3)]
    first, second, third = world.running()
    await world.shared.close(slots[0])
    assert world.running() == [first, second, third]
    await world.shared.close(slots[1])
    assert world.running() == [first, third]
    await world.open(memory_mb=128)  # taken again, so the next may stand empty
    await world.shared.close(slots[2])
    assert world.running() == [first, third]
    for number in range(5):
        await world.shared.close(await world.open(memory_mb=1000 + number))
        assert world.running() == [first, third]


async def test_all_owners_have_as_many_empty_sandboxes_as_the_pool_may_have(world: World) -> None:
    slots = [await world.open(owner) for owner in ("alice", "bob", "carol")]
    alices, bobs, carols = world.running()
    for slot in (slots[1], slots[0]):
        await world.shared.close(slot)
    assert world.running() == [alices, bobs, carols]
    await world.shared.close(slots[2])
    assert world.running() == [alices, carols]  # bob's was empty the longest


async def test_one_that_is_about_to_be_taken_is_not_surplus(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is empty for a moment, between its start and the session that waits for it."""
    await world.shared.close(await world.open())
    surplus: list[_Host | None] = []
    with monkeypatch.context() as patch:
        patch.setattr(world.shared, "_measure", lambda: surplus.append(world.shared._surplus()))
        await world.open(memory_mb=256)
    assert surplus == [None]


async def test_one_that_no_session_came_to_is_stopped_by_the_reaper(world: World) -> None:
    await world.shared.close(await world.open())
    (first,) = world.running()
    resources = Resources(256, 1.0, 64, 3)
    key, group = _Key("alice", "py", resources, bare=False), _Group()
    world.shared._groups[key] = group
    await world.shared._start(key, group, IMAGE)
    assert len(world.running()) == 2
    await world.shared.tend()
    assert world.running() == [first]
    assert key not in world.shared._groups


async def test_a_slot_whose_link_cannot_be_made_costs_the_others_nothing(world: World) -> None:
    await world.open()
    world.backend.slot_error = OSError("no descriptor is free")
    with pytest.raises(SandboxLost, match="no descriptor is free"):
        await world.open()
    await world.background.finished(PATIENCE_S)
    assert frames.REMOVE not in world.backend.asked
    world.backend.slot_error = None
    await world.open()
    assert world.backend.starts == len(world.running()) == 1


async def test_where_imports_end_process_1_sessions_share_without_them(world: World) -> None:
    world.backend.preloaded = b"\xff" * 64
    first, second = await world.open(), await world.open()
    assert first.data == second.data
    assert (world.backend.starts, len(world.running())) == (2, 1)
    assert world.backend.asked.count(frames.PRELOAD) == 1


async def test_an_environment_that_was_replaced_keeps_no_empty_sandbox(world: World) -> None:
    slot = await world.open()
    world.shared.drain("py")
    assert len(world.running()) == 1  # somebody is in it
    await world.shared.close(slot)
    world.shared.drain("other")
    assert len(world.running()) == 1
    world.shared.drain("py")
    await world.background.finished(PATIENCE_S)
    assert world.running() == []


async def test_nobody_comes_into_one_that_is_being_let_go_of(world: World) -> None:
    await world.shared.close(await world.open())
    (first,) = world.running()
    world.shared.drain("py")
    await world.open()  # at once: it has not been stopped yet
    await world.background.finished(PATIENCE_S)
    assert first not in world.running()
    assert world.backend.starts == 2


async def test_who_comes_while_all_are_being_stopped_is_refused(world: World) -> None:
    world.backend.start_gate = asyncio.Event()
    first = asyncio.create_task(world.open())
    await world.backend.start_entered.wait()
    stopping = asyncio.create_task(world.shared.aclose())
    await asyncio.sleep(0)  # it waits for what is just starting
    with pytest.raises(SandboxLost, match="shutting down"):
        await world.open("bob")
    world.backend.start_gate.set()
    await asyncio.gather(first, stopping, return_exceptions=True)
    assert stopping.exception() is None
