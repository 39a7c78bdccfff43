"""The channel to process 1 of a shared sandbox, which may be as hostile as any other."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from runner import frames

from orchestrator.errors import SandboxLost
from orchestrator.records import Resources
from orchestrator.sandboxes.host_channel import HostChannel
from orchestrator.sandboxes.link import SOCKET_NAME, Link
from tests.security.fake_runner import PATIENCE_S, Connection

pytestmark = pytest.mark.anyio

HELLO = json.dumps({"role": "supervisor", "protocol": frames.PROTOCOL}).encode()
SLOT = "5" * 32
RESOURCES = Resources(100, 1.0, 9, 5)


@asynccontextmanager
async def hosted(run_dir: Path, *, greeted: bool = True) -> AsyncIterator[tuple[HostChannel, Connection, list[None]]]:
    """A channel, the connection of a process 1 that the test plays, and how often the channel told its end."""
    ends: list[None] = []
    channel = HostChannel(Link.create(run_dir, "a" * 32), lambda: ends.append(None))
    reader, writer = await asyncio.open_unix_connection(str(run_dir / ("a" * 32) / SOCKET_NAME))
    connection = Connection(reader, writer)
    try:
        if greeted:
            await connection.send_frame(frames.HELLO, HELLO)
            await asyncio.wait_for(channel.greeted, PATIENCE_S)
        yield channel, connection, ends
    finally:
        await channel.aclose()
        writer.close()


async def ended(channel: HostChannel, connection: Connection) -> None:
    await asyncio.wait_for(connection.closed_by_peer(), PATIENCE_S)
    assert not channel.alive()


async def test_slots_are_added_and_removed(open_tmp_path: Path) -> None:
    async with hosted(open_tmp_path) as (channel, connection, ends):
        channel.add(SLOT, 2_000_066, RESOURCES)
        added = await connection.receive()
        assert added.kind == frames.ADD
        limits = {"nproc": 9, "data": 100 * 1024 * 1024}
        assert json.loads(added.body) == {"slot": SLOT, "uid": 2_000_066, "limits": limits}
        removing = asyncio.create_task(channel.remove(SLOT, timeout_s=PATIENCE_S))
        assert json.loads((await connection.receive()).body) == {"slot": SLOT}
        await connection.send_frame(frames.REMOVED, json.dumps({"slot": SLOT, "clean": False}).encode())
        assert await removing is False
        assert channel.alive()
        assert not ends
    assert len(ends) == 1


async def test_process_1_is_not_asked_to_remove_what_was_never_added(open_tmp_path: Path) -> None:
    async with hosted(open_tmp_path) as (channel, connection, _):
        assert await channel.remove(SLOT, timeout_s=PATIENCE_S) is True
        channel.add(SLOT, 2_000_066, RESOURCES)
        assert (await connection.receive()).kind == frames.ADD  # the first that came


async def test_imports_are_waited_for(open_tmp_path: Path) -> None:
    async with hosted(open_tmp_path) as (channel, connection, _):
        importing = asyncio.create_task(channel.preload(["numpy"], timeout_s=PATIENCE_S))
        assert json.loads((await connection.receive()).body) == {"distributions": ["numpy"]}
        await connection.send_frame(frames.PRELOADED, b'{"modules": ["numpy"], "bytes": 1}')
        await importing


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (frames.PRELOADED, b'{"modules": [], "bytes": 1}'),
        (frames.REMOVED, json.dumps({"slot": SLOT, "clean": True}).encode()),
        (frames.HELLO, HELLO),
        (frames.VALUE, b"{}"),
        (frames.EXITED, b'{"code": 1, "signal": null}'),
    ],
)
async def test_what_nobody_waits_for_ends_it(open_tmp_path: Path, kind: int, body: bytes) -> None:
    async with hosted(open_tmp_path) as (channel, connection, ends):
        await connection.send_frame(kind, body)
        await ended(channel, connection)
        assert len(ends) == 1


@pytest.mark.parametrize("body", [b"{}", b'{"slot": "6", "clean": true}', b'{"slot": 5, "clean": true}', b"\xff", b"["])
async def test_an_answer_of_another_slot_or_none_ends_it_and_who_waits_hears(open_tmp_path: Path, body: bytes) -> None:
    async with hosted(open_tmp_path) as (channel, connection, _):
        channel.add(SLOT, 2_000_066, RESOURCES)
        removing = asyncio.create_task(channel.remove(SLOT, timeout_s=PATIENCE_S))
        for _ in (frames.ADD, frames.REMOVE):
            await connection.receive()
        await connection.send_frame(frames.REMOVED, body)
        with pytest.raises(SandboxLost):
            await removing
        await ended(channel, connection)


@pytest.mark.parametrize(
    ("body", "extra"),
    [(b'{"role": "worker", "protocol": 2, "generation": 1}', b""), (b"{}", b""), (HELLO, b"x"), (b"x" * 70_000, b"")],
    ids=["a worker's", "nothing", "with content", "long"],
)
async def test_another_greeting_ends_it(open_tmp_path: Path, body: bytes, extra: bytes) -> None:
    async with hosted(open_tmp_path, greeted=False) as (channel, connection, _):
        await connection.send_frame(frames.HELLO, body, extra=extra)
        with pytest.raises(SandboxLost):
            await asyncio.wait_for(channel.greeted, PATIENCE_S)


async def test_silence_is_given_up(open_tmp_path: Path) -> None:
    async with hosted(open_tmp_path) as (channel, _, __):
        channel.add(SLOT, 2_000_066, RESOURCES)
        with pytest.raises(SandboxLost, match="did not answer within"):
            await channel.remove(SLOT, timeout_s=0.05)


async def test_there_is_one_connection_for_all_its_life(open_tmp_path: Path) -> None:
    async with hosted(open_tmp_path) as (channel, _, __):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(str(open_tmp_path / ("a" * 32) / SOCKET_NAME))
        assert channel.alive()
