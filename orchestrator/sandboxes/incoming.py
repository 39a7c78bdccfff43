"""The content of a reply on its way in: taken off the connection only as fast as somebody reads it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from orchestrator.errors import SandboxLost

# Arrived and not yet read: past this the connection is not read from, and the rest waits in the sandbox.
_MOST_BYTES = 1024 * 1024


class Source(Protocol):
    """The connection that it comes from."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Incoming:
    """A `Content`, fed by its `Source`. Nobody reads it: it is dropped as it comes."""

    def __init__(self, size: int, source: Source) -> None:
        self.size = size
        self.missing = size  # bytes that have not arrived
        self._source = source
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._waited = False
        self._dropped = False
        self._failure: str | None = None
        self._news = asyncio.Event()

    def waited(self) -> bool:
        """Whether since the last time this was asked it was for its reader to go on, not for the runner."""
        waited, self._waited = self._waited or self._paused, False
        return waited

    def feed(self, piece: bytes) -> None:
        """The next bytes; no more than are missing."""
        self.missing -= len(piece)
        if self._dropped:
            return
        self._pieces.append(piece)
        self._held += len(piece)
        self._news.set()
        if self._held >= _MOST_BYTES and self.missing and not self._paused:
            self._paused = self._waited = True
            self._source.pause_reading()

    def fail(self, reason: str) -> None:
        """No more will come."""
        if self.missing and self._failure is None:
            self._failure = reason
            self._news.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises `SandboxLost`."""
        try:
            while self._pieces or self.missing:
                if self._pieces:
                    yield self._next()
                elif self._failure is not None:
                    raise SandboxLost(self._failure)
                else:
                    self._news.clear()
                    await self._news.wait()
        finally:
            self.drop()

    async def aclose(self) -> None:
        self.drop()

    def drop(self) -> None:
        """What is left is of no use to anybody."""
        self._dropped = True
        self._pieces.clear()
        self._held = 0
        self._resume()

    def _next(self) -> bytes:
        piece = self._pieces.popleft()
        self._held -= len(piece)
        if self._held < _MOST_BYTES:
            self._resume()
        return piece

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._source.resume_reading()
