"""What is asked of a runner, and what one run of it took."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO

import msgspec
from runner import frames

from orchestrator.sandboxes.replies import Reply

_PIECE_BYTES = 1024 * 1024
_TOGETHER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class File:
    """Bytes that go beside a request's JSON, which calls them by `name`.

    `source` is read from its start, in a thread. A request outlives a caller that was cancelled, so a file is not to be
    closed by its caller then, but when nothing refers to it any more.
    """

    name: str
    size: int
    source: bytes | BinaryIO


async def send(files: Iterable[File], write: Callable[[bytes], Awaitable[None]]) -> None:
    """Write one file after another, small ones together. Raises `OSError`; `EOFError`: one is shorter than it was."""
    small: list[bytes] = []
    held = 0

    async def add(piece: bytes) -> None:
        nonlocal held
        small.append(piece)
        held += len(piece)
        if held >= _TOGETHER_BYTES:
            await write(b"".join(small))
            small.clear()
            held = 0

    for file in files:
        if isinstance(file.source, bytes):
            await add(file.source)  # at once: a generator for each of very many would hold others up
        else:
            async for piece in _stored(file.source, file.size):
                await add(piece)
    if small:
        await write(b"".join(small))


async def _stored(source: BinaryIO, size: int) -> AsyncIterator[bytes]:
    """All of it, a piece at a time."""
    source.seek(0)
    while size:
        piece = await asyncio.to_thread(source.read, min(size, _PIECE_BYTES))
        if not piece:
            raise EOFError
        size -= len(piece)
        yield piece


@dataclass(slots=True)  # not frozen: a frozen one takes three times as long to make, and every call makes one
class Work:
    """One request to a runner; see `runner/frames.py` for all of it. `kind` is one of `frames.REQUESTS`.

    `forms` are those that the client takes, the one it likes best first; none means JSON.
    """

    kind: int
    body: bytes
    flags: int = 0
    forms: tuple[str, ...] = ()
    files: tuple[File, ...] = ()

    def envelope(self) -> bytes:
        """What `extra` begins with; empty if there is nothing to say in it."""
        if not self.forms and not self.files:
            return b""
        head = {"forms": self.forms or (frames.JSON,), "files": [(file.name, file.size) for file in self.files]}
        text = msgspec.json.encode(head)
        return frames.ENVELOPE.pack(len(text)) + text


@dataclass(slots=True)
class Run:
    """A reply, and the seconds that its request waited for its turn and then ran."""

    reply: Reply
    queued_s: float
    ran_s: float
