"""What is asked of a runner, and what one run of it took."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO

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

    async def pieces(self) -> AsyncIterator[bytes]:
        """All of it, a piece at a time. Raises `OSError`; `EOFError`: it is shorter than it was."""
        if isinstance(self.source, bytes):
            yield self.source
            return
        self.source.seek(0)
        missing = self.size
        while missing:
            piece = await asyncio.to_thread(self.source.read, min(missing, _PIECE_BYTES))
            if not piece:
                raise EOFError
            missing -= len(piece)
            yield piece


async def send(files: Iterable[File], write: Callable[[bytes], Awaitable[None]]) -> None:
    """Write one file after another, small ones together. Raises as `File.pieces`."""
    small: list[bytes] = []
    held = 0
    for file in files:
        async for piece in file.pieces():
            small.append(piece)
            held += len(piece)
            if held >= _TOGETHER_BYTES:
                await write(b"".join(small))
                small, held = [], 0
    if small:
        await write(b"".join(small))


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
        text = json.dumps(head).encode()
        return frames.ENVELOPE.pack(len(text)) + text


@dataclass(slots=True)
class Run:
    """A reply, and the seconds that its request waited for its turn and then ran."""

    reply: Reply
    queued_s: float
    ran_s: float
