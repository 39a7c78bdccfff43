"""Bytes passed on between two connections, both ways, until the far end is done or nothing moves any more."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

_CHUNK_BYTES = 64 * 1024
_CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Streams:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.writer.wait_closed()


class Pace:
    """Bytes per second that all connections which share it may move together; None: as many as they can."""

    def __init__(self, bytes_per_s: float | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._due = 0.0  # when what has been moved so far would have been moved at that speed

    async def moved(self, count: int) -> None:
        if self._bytes_per_s is None:
            return
        now = time.monotonic()
        self._due = max(self._due, now) + count / self._bytes_per_s
        if self._due - now > 0.05:  # shorter waits cost more than they are worth; they add up to one
            await asyncio.sleep(self._due - now)


async def relay(near: Streams, far: Streams, *, upload_bytes: int | None, idle_timeout_s: float, pace: Pace) -> None:
    """Copy until `far` ends or nothing moved for `idle_timeout_s`.

    Args: upload_bytes: of what `near` sends, no more than so many bytes are passed on; None: all there are.
    """
    moved = [0]  # chunks, both ways: a long download is not idle because the other way is
    down = asyncio.create_task(_copy(far.reader, near.writer, moved, None, pace))
    up = asyncio.create_task(_copy(near.reader, far.writer, moved, upload_bytes, pace))
    try:
        before = -1
        while not down.done() and moved[0] != before:
            before = moved[0]
            await asyncio.wait({down}, timeout=idle_timeout_s)
    finally:
        down.cancel()
        up.cancel()
        await asyncio.gather(down, up, return_exceptions=True)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, moved: list[int], left: int | None, pace: Pace
) -> None:
    while left is None or left > 0:
        chunk = await reader.read(_CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES))
        if not chunk:
            break
        writer.write(chunk)
        await writer.drain()
        moved[0] += 1
        left = None if left is None else left - len(chunk)
        await pace.moved(len(chunk))
    if left is None and writer.can_write_eof():
        writer.write_eof()
