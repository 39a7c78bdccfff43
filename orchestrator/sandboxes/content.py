"""Content: bytes of a reply that are handed on as they come, without being held whole."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from orchestrator.errors import PayloadTooLarge


class Content(Protocol):
    """Read once, by one reader. Until it is read to its end or closed, the session runs nothing else."""

    size: int  # bytes, all together

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces. Raises `SandboxLost`: the runner stopped sending before the end."""

    async def aclose(self) -> None:
        """Drop what is left. May be called twice, and after the end."""


class Whole:
    """Content that is in memory already."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._data:
            yield self._data

    async def aclose(self) -> None:
        return


class Held:
    """Content that says, once, when its reader is done with it."""

    def __init__(self, content: Content, done: Callable[[], None]) -> None:
        self.size = content.size
        self._content = content
        self._done: Callable[[], None] | None = done

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._content:
                yield piece
        finally:
            self._end()

    async def aclose(self) -> None:
        await self._content.aclose()
        self._end()

    def _end(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()


async def read(content: Content, *, limit_bytes: int) -> bytes:
    """All of it. Raises `PayloadTooLarge`, before any of it is read; `SandboxLost`."""
    if content.size > limit_bytes:
        await content.aclose()
        msg = f"a value takes {content.size} bytes, over the limit of {limit_bytes} for one that is held in memory"
        raise PayloadTooLarge(msg, limit_bytes=limit_bytes)
    return b"".join([piece async for piece in content])
