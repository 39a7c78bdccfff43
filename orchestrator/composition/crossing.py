"""Values on their way from one sandbox to another: JSON in typed form, and the bytes of the files that it names.

Small ones are held in memory, larger ones lie in the spool.
"""

import asyncio
import itertools
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, BinaryIO, Protocol, cast

import msgspec
from msgspec import Raw

from orchestrator.composition import exact
from orchestrator.composition.aside import aside
from orchestrator.composition.exact import Room
from orchestrator.composition.tags import FILES, tagged
from orchestrator.errors import SandboxLost
from orchestrator.sandboxes.content import read
from orchestrator.sandboxes.replies import Typed, Value
from orchestrator.sandboxes.work import File

# Files of one value together; past it they lie in the spool.
_MEMORY_BYTES = 1024 * 1024


class Spooled(Protocol):
    """A file without a name, which goes when nothing refers to it any more."""

    def fileno(self) -> int: ...

    def append(self, data: bytes) -> None:
        """Blocks. Raises `SpoolFull`."""

    def close(self) -> None: ...


class _Descriptor(Protocol):
    def fileno(self) -> int: ...


class Spool(Protocol):
    def open(self) -> Spooled:
        """Blocks. Raises `SpoolFull`."""


class Told(msgspec.Struct, frozen=True):
    """What a reply with a value says. Members not named here are not passed on."""

    value: Raw
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Crossing:
    """`value` is JSON as `exact.dumps` takes it; where there are files, it is as `exact.loads` gives it. `size`: its bytes."""

    value: Any
    files: tuple[File, ...] = ()
    size: int = 0

    def items(self, room: Room) -> list[Any]:
        """Those of a value that is a list. Raises `SandboxLost`, `TooManyValues`."""
        if type(self.value) is list:
            return self.value
        try:
            room.take(bytes(self.value))
            return msgspec.json.decode(self.value, type=list[Raw])
        except (msgspec.MsgspecError, TypeError, RecursionError) as exc:
            msg = "a runner sent something else where it was to send a list"
            raise SandboxLost(msg) from exc


class Names:
    """Names for the files of values, none of them twice in one composition."""

    def __init__(self, taken: Collection[str]) -> None:
        self._names = (name for name in map("f{}".format, itertools.count()) if name not in taken)
        self._lock = Lock()

    def renamed(self, value: Any, files: Iterable[File]) -> Crossing:
        """`value`, as `exact.loads` gives it, is changed in place. May be called in several threads."""
        with self._lock:
            new = {file.name: next(self._names) for file in files}
        for found, tag in tagged(value, FILES):
            found[tag] = new.get(found[tag], found[tag])
        return Crossing(value, tuple(replace(file, name=new[file.name]) for file in files))


@dataclass(frozen=True, slots=True)
class Taken:
    told: Told
    value: Crossing


async def taken(reply: Value | Typed, names: Names, spool: Spool, room: Room) -> Taken:
    """What a part came to, with its content read to the end. Raises `SandboxLost`: it is not what a runner sends. `SpoolFull`.
    `TooManyValues`: it names files, so that it has to be taken apart."""
    size = len(reply.body)
    try:
        told = await aside(size, _told.decode, reply.body)
        if isinstance(reply, Value) or not reply.files:
            return Taken(told, Crossing(told.value, size=size))
        files = await _files(reply, spool)
        return Taken(told, await aside(size, _named, told, files, names, room))
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        msg = "a runner sent a value that cannot be read"
        raise SandboxLost(msg) from exc
    finally:
        if isinstance(reply, Typed):
            await reply.content.aclose()


def _named(told: Told, files: Iterable[File], names: Names, room: Room) -> Crossing:
    text = bytes(told.value)
    room.take(text)
    return replace(names.renamed(exact.loads(text), files), size=len(text))


async def _files(reply: Typed, spool: Spool) -> tuple[File, ...]:
    content = reply.content
    if content.size <= _MEMORY_BYTES:
        data = await read(content, limit_bytes=_MEMORY_BYTES)
        return tuple(File(name, size, data[at : at + size]) for name, size, at in _placed(reply.files))
    file = await asyncio.to_thread(spool.open)
    try:
        async for piece in content:
            await asyncio.to_thread(file.append, piece)
    except BaseException:
        file.close()
        raise
    return tuple(File(name, size, window(file, at, size)) for name, size, at in _placed(reply.files))


def _placed(files: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int, int]]:
    """Each file's name, size, and where it begins."""
    begin = 0
    for name, size in files:
        yield name, size, begin
        begin += size


def shared(file: File) -> File:
    """The same file, to be read beside others that read it."""
    source = file.source
    if isinstance(source, bytes):
        return file
    again = source.again() if isinstance(source, _Window) else window(source, 0, file.size)
    return replace(file, source=again)


def window(file: "_Descriptor", begin: int, size: int) -> BinaryIO:
    return cast(BinaryIO, _Window(file, begin, size))


class _Window:
    """A part of a file, with a position of its own: the files of one value lie in one, and several sandboxes may get them."""

    def __init__(self, file: "_Descriptor", begin: int, size: int) -> None:
        self._file = file  # kept, as it goes when nothing refers to it
        self._begin = begin
        self._size = size
        self._at = 0

    def again(self) -> BinaryIO:
        return window(self._file, self._begin, self._size)

    def seek(self, offset: int) -> int:
        self._at = offset
        return offset

    def read(self, count: int) -> bytes:
        data = os.pread(self._file.fileno(), min(count, self._size - self._at), self._begin + self._at)
        self._at += len(data)
        return data


_told = msgspec.json.Decoder(Told)
