"""One connection to a runner: bytes in, checked frames out. Knows frames and sizes, not calls."""

import asyncio
import socket
from typing import Protocol, cast

from runner.frames import HEADER

from orchestrator.sandboxes.incoming import Incoming

# Enough for a usual frame in one piece, small enough to keep for every idle session.
_SCRATCH_BYTES = 16 * 1024
# What is set aside at a time for a large body: memory follows what has arrived, not what a header claims.
_CHUNK_BYTES = 1024 * 1024
# And for content, whose pieces go out as they come.
_PIECE_BYTES = 256 * 1024


class Owner(Protocol):
    """Who holds the connections."""

    def refuses(self, peer: "Peer", kind: int, length: int, extra: int, call_id: int) -> str | None:
        """Why a frame with this header may not come now; None if it may. Asked before its body is taken in."""

    def received(self, peer: "Peer", kind: int, body: bytes, content: Incoming | None) -> None:
        """A frame that `refuses` let pass: its whole body, and its extra, if it has any, which is yet to come."""

    def content_ended(self, peer: "Peer") -> None:
        """All of the content of the last frame has come."""

    def violated(self, peer: "Peer", reason: str) -> None:
        """The connection carried what is no frame, or one that `refuses` named a reason against."""

    def lost(self, peer: "Peer") -> None:
        """The connection ended, by either side. May be called twice."""

    def closed(self, peer: "Peer") -> None:
        """Nothing of the connection is left; after `lost`, and not in the same turn of the loop as its end."""


class Peer(asyncio.BufferedProtocol):
    """The protocol of one accepted connection."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.closed: asyncio.Future[None] = loop.create_future()  # nothing of the connection is left
        self._owner = owner
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._deaf = False  # closed from this side: what still comes is not looked at
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._end = 0  # of what the scratch holds
        # A body that does not end in the scratch: its header, the pieces so far, the piece being filled, bytes to come.
        self._kind = 0
        self._extra = 0
        self._pieces: list[bytes | bytearray] = []
        self._piece: bytearray | None = None
        self._filled = 0
        self._missing = 0
        self._content: Incoming | None = None  # whose bytes come now
        self._buffer = bytearray()  # for them
        self._room: asyncio.Future[None] | None = None  # to write more

    async def adopt(self, connection: socket.socket) -> None:
        """Serve it. Where it went away again, `lost` and `closed` are told."""
        try:
            await self._loop.connect_accepted_socket(lambda: self, connection)
        except OSError as exc:
            connection.close()
            self.connection_lost(exc)

    # --- out ---

    def tell(self, kind: int, body: bytes = b"") -> None:
        """Send a frame that is no call."""
        self.send(HEADER.pack(kind, b"\0\0\0", len(body), 0, 0), body)

    def send(self, header: bytes, body: bytes = b"") -> None:
        """Send a frame; nothing waits. What the runner does not read is kept until `abort`."""
        if self._transport is None or self._deaf:
            return
        if len(body) <= _SCRATCH_BYTES:
            self._transport.write(header + body)
        else:  # uvloop writes both in one go, without a copy
            self._transport.write(header)
            self._transport.write(body)

    async def send_piece(self, piece: bytes) -> None:
        """Send some of a frame's extra, and wait until the runner has taken most of what was sent."""
        self.send(piece)
        if self._room is not None:
            await asyncio.shield(self._room)

    def pause_writing(self) -> None:
        if not self._deaf:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def abort(self) -> None:
        """Close at once, in both directions; nothing that arrived before is handed on. May be called twice."""
        self._deaf = True
        self._pieces.clear()
        self._fail_content()
        if self._transport is not None:
            self._transport.abort()

    # --- in ---

    def pause_reading(self) -> None:
        if self._transport is not None and not self._deaf:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._deaf:
            self._transport.resume_reading()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._deaf:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self.resume_writing()
        self._fail_content()
        self._owner.lost(self)
        if not self.closed.done():
            self.closed.set_result(None)
            self._owner.closed(self)

    def eof_received(self) -> None:
        # Said at once: a worker that died and its successor are told apart by this.
        self._fail_content()
        self._owner.lost(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._content is not None:
            return memoryview(self._buffer)[: self._content.missing]
        if self._piece is None:
            return self._scratch[self._end :]
        return memoryview(self._piece)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._content is not None:
            self._feed(self._content, bytes(memoryview(self._buffer)[:nbytes]))
        elif self._piece is None:
            self._end += nbytes
            self._read_scratch()
        else:
            self._fill(self._piece, nbytes)

    def _fill(self, piece: bytearray, nbytes: int) -> None:
        self._filled += nbytes
        self._missing -= nbytes
        if self._filled == len(piece):
            self._pieces.append(piece)
            self._next_piece()

    def _read_scratch(self) -> None:
        start = 0
        while not self._deaf and self._end - start >= HEADER.size:
            kind, _, length, extra, call_id = HEADER.unpack_from(self._scratch, start)
            refusal = self._owner.refuses(self, kind, length, extra, call_id)
            if refusal is not None:
                self._owner.violated(self, refusal)
                return
            start += HEADER.size
            stop = start + length
            body = bytes(self._scratch[start : min(stop, self._end)])
            if stop > self._end:
                self._kind, self._extra, self._missing = kind, extra, stop - self._end
                self._pieces = [body]
                self._end = 0
                self._next_piece()
                return
            start = stop
            if extra:
                left = bytes(self._scratch[start : min(start + extra, self._end)])
                start += len(left)
                self._begin_content(kind, body, extra, left)
            else:
                self._owner.received(self, kind, body, None)
        left_over = self._end - start
        if start and left_over:
            self._scratch[:left_over] = self._scratch[start : self._end]
        self._end = left_over

    def _next_piece(self) -> None:
        if self._missing:
            self._piece = bytearray(min(self._missing, _CHUNK_BYTES))
            self._filled = 0
            return
        self._piece = None
        body = b"".join(self._pieces)
        self._pieces.clear()
        if self._deaf:
            return
        if self._extra:
            self._begin_content(self._kind, body, self._extra, b"")
        else:
            self._owner.received(self, self._kind, body, None)

    # --- content ---

    def _begin_content(self, kind: int, body: bytes, size: int, first: bytes) -> None:
        self._content = Incoming(size, self)
        self._owner.received(self, kind, body, self._content)
        if self._content is not None:  # else it was refused
            self._feed(self._content, first)

    def _feed(self, content: Incoming, piece: bytes) -> None:
        if self._deaf:
            return
        content.feed(piece)
        if content.missing:
            if not self._buffer:
                self._buffer = bytearray(_PIECE_BYTES)
            return
        self._content = None
        self._buffer = bytearray()
        self._owner.content_ended(self)

    def _fail_content(self) -> None:
        if self._content is not None:
            self._content.fail("the session's runner ended before all of the value had come")
            self._content = None
            self._buffer = bytearray()
