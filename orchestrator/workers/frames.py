"""What goes between owner and worker: frames with the number of their request, on one socket for all of a worker's.

A request that is small, and its reply, is a frame each. Larger bodies go in pieces that the other end asks for, or says it
has taken, so that neither holds more than a few of each and none is in the way of others.
"""

import asyncio
from struct import Struct
from typing import Any, NamedTuple

import msgspec

# From a worker.
READY = 1  # it accepts connections
REQUEST = 2  # `Head`, and what is there of the body
BODY = 3  # the next piece of it
TAKEN = 4  # of a reply: one frame of those that are not its last
GONE = 5  # the client has left
# From the owner.
REPLY = 6  # with `ReplyHead` in the first; a piece of its body
PULL = 7  # the app waits for the next piece of the request's body
CUT = 8  # the app has ended before its reply did
STOP = 9  # accept no more, and end with the last connection
# Either way.
ALIVE = 10  # the owner asks for it, and a worker whose loop runs sends it back

MORE = 1  # flag: what is in this frame is not the end of the body
PART = 2  # flag: of one message of the app, which goes on in the next frame

PIECE_BYTES = 64 * 1024
WINDOW = 4  # frames of one reply that may be on their way

_TOP = Struct("!BBQII")
_JOINED_BYTES = 16 * 1024  # up to here one write of a copy is cheaper than two


class Frame(NamedTuple):
    kind: int
    flags: int
    id: int
    head: bytes
    body: bytes


class Head(msgspec.Struct, array_like=True):
    """What the app reads of an ASGI scope."""

    http_version: str
    method: str
    path: str
    raw_path: bytes
    query_string: bytes
    client: tuple[str, int] | None
    headers: list[tuple[bytes, bytes]]


class ReplyHead(msgspec.Struct, array_like=True):
    status: int
    headers: list[tuple[bytes, bytes]]


encode = msgspec.msgpack.Encoder().encode
decode_head = msgspec.msgpack.Decoder(Head).decode
decode_reply_head = msgspec.msgpack.Decoder(ReplyHead).decode


class Reader:
    """Frames out of what is read, however it is cut."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = 0

    def feed(self, data: bytes) -> list[Frame]:
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames, at, available = [], 0, len(data)
        while True:
            begin = at + _TOP.size
            if begin > available:
                self._needed = _TOP.size
                break
            kind, flags, id, head_size, body_size = _TOP.unpack_from(data, at)
            middle = begin + head_size
            end = middle + body_size
            if end > available:
                self._needed = end - at
                break
            frames.append(Frame(kind, flags, id, data[begin:middle], data[middle:end]))
            at = end
        self._rest += data[at:]
        return frames


class Link(asyncio.Protocol):
    """One end of the socket. Who extends it takes frames in `heard`."""

    _transport: asyncio.WriteTransport

    def __init__(self) -> None:
        self._reader = Reader()
        self._open = False

    def heard(self, frame: Frame) -> None:
        raise NotImplementedError

    def write(self, kind: int, id: int = 0, flags: int = 0, head: bytes = b"", body: bytes | memoryview = b"") -> None:
        """Into nothing, if the other end is gone."""
        if not self._open:
            return
        top = _TOP.pack(kind, flags, id, len(head), len(body))
        if len(body) <= _JOINED_BYTES:
            self._transport.write(b"".join((top, head, body)))
        else:
            self._transport.write(top + head)
            self._transport.write(body)

    def abort(self) -> None:
        """Cut the other end off."""
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._open = True

    def data_received(self, data: bytes) -> None:
        for frame in self._reader.feed(data):
            self.heard(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
