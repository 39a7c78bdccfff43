"""Frames between orchestrator and runner: a fixed header, a body, and room for binary attachments.

    offset  0      1..3   4..7        8..11         12..19
            kind   flags  body bytes  extra bytes   call id      all big-endian, unsigned

`body` is UTF-8 JSON (or empty), `extra` is binary attachments (none yet; always 0). The call id is random, made by
the orchestrator, and comes back on the one reply to that call; it is 0 on frames that belong to no call.

Two connections to one Unix socket, on which the orchestrator listens:
- *control*, from the supervisor (process 1): HELLO {"role": "supervisor", "protocol", "runner", "python", "pid"} at once;
  the orchestrator answers CONFIG; then RESTART (kill every other process, fork a fresh worker) and STOP may come, and
  the supervisor reports each worker's end that it was not asked for: EXITED {"code": int|null, "signal": int|null}.
- *call*, from the worker: HELLO {"role": "worker", "protocol", "generation": n, "pid"}; then CALL and one reply each.
  Generation counts workers from 1. Either side that loses its connection connects anew and greets again; the worker's
  state survives that. The orchestrator sends CONFIG again on every new control connection.

CONFIG: {"env": {str: str}, "max_reply_bytes", "max_output_bytes", "max_items", "orphan_s", "fsize_bytes", "egress": bool};
`env` is set before the first worker is forked, after the variables of a proxy with `egress` (`egress.py`). The first
worker is forked only after CONFIG.

CALL's body is the client's request ({"namepath", "args", …}) as it came; "sessionid" (left empty) and "timeout" are ignored.
Replies: VALUE, RAISED and UNSERIALISABLE hold the whole HTTP body, at most `max_reply_bytes` of it; the code of an
UNSERIALISABLE one is `value_not_serializable`, `too_many_items` or `reply_too_large`. REFUSED holds {"code", "detail",
"field"?} with code one of `REFUSALS`. A reply that its worker could not send is lost, not repeated.
"""

# Imports little: it stands between the start of an interpreter and the supervisor's greeting.
from __future__ import annotations

from _socket import MSG_WAITALL
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

PROTOCOL = 1
HEADER = Struct(">B3sIIQ")

HELLO = 1
CONFIG = 2
RESTART = 3
STOP = 4
EXITED = 5
CALL = 16
VALUE = 32
RAISED = 33
UNSERIALISABLE = 34
REFUSED = 35

REPLIES = frozenset({VALUE, RAISED, UNSERIALISABLE, REFUSED})
REFUSALS = frozenset({"invalid_request", "name_not_found", "attribute_not_found", "not_callable"})

# Bit 0 of the last flags byte of a CALL: NaN and infinities come back as strings, not as null.
NONFINITE_AS_STRINGS = 1


class Frame:
    """One frame as it came."""

    __slots__ = ("body", "call_id", "flags", "kind")

    def __init__(self, kind: int, flags: int, call_id: int, body: bytes) -> None:
        self.kind = kind
        self.flags = flags
        self.call_id = call_id
        self.body = body


class FrameError(Exception):
    """The peer sent what is no frame, or closed inside one."""


def encode(kind: int, body: bytes = b"", *, call_id: int = 0, flags: int = 0) -> bytes:
    return HEADER.pack(kind, flags.to_bytes(3, "big"), len(body), 0, call_id) + body


def encode_json(kind: int, members: dict[str, Any]) -> bytes:
    import json  # not wanted before the greeting

    return encode(kind, json.dumps(members).encode())


def read(sock: socket, *, max_bytes: int) -> Frame | None:
    """The next frame from a blocking socket; None at a clean end. Raises FrameError, OSError."""
    header = sock.recv(HEADER.size, MSG_WAITALL)
    if not header:
        return None
    if len(header) < HEADER.size:
        header = _complete(sock, header, HEADER.size)
    kind, flags, length, extra, call_id = HEADER.unpack(header)
    if extra:
        msg = "attachments are not known to this protocol version"
        raise FrameError(msg)
    if length > max_bytes:
        msg = f"a frame of {length} bytes is over the limit of {max_bytes}"
        raise FrameError(msg)
    body = sock.recv(length, MSG_WAITALL) if length else b""
    if len(body) < length:
        body = _complete(sock, body, length)
    return Frame(kind, int.from_bytes(flags, "big"), call_id, body)


def _complete(sock: socket, data: bytes, count: int) -> bytes:
    """`data` and what is missing to `count` bytes: a signal may end MSG_WAITALL early, and so does the peer's end."""
    pieces = [data]
    missing = count - len(data)
    while missing:
        piece = sock.recv(missing, MSG_WAITALL)
        if not piece:
            msg = "the peer closed the connection inside a frame"
            raise FrameError(msg)
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)
