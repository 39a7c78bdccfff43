"""Frames between orchestrator and runner: a fixed header, a body, and binary attachments.

    offset  0      1..3   4..7        8..11         12..19
            kind   flags  body bytes  extra bytes   call id      all big-endian, unsigned

`body` is UTF-8 JSON (or empty). `extra` is what JSON holds badly, bytes as they are (or nothing). The call id is random,
made by the orchestrator, and comes back on every frame that belongs to that request; it is 0 on those that belong to none.

Two connections to one Unix socket, on which the orchestrator listens:
- *control*, from the supervisor (process 1): HELLO {"role": "supervisor", "protocol", "runner", "python", "pid"} at once;
  the orchestrator answers CONFIG; then RESTART (kill every other process, fork a fresh worker) and STOP may come. RESTART
  {"ends": n} says how many EXITED have come over this connection: where more were sent, that has happened meanwhile. Before
  each fresh worker the supervisor reports the end of the one before: EXITED {"code": int|null, "signal": int|null, "stage"?,
  "item"?}, without code and signal after RESTART. `stage` and `item` say where in a COMPOSE it was, counted from 0.
  Before CONFIG, PRELOAD {"distributions": [name, …]} may come, for a sandbox that waits for its session; once their modules
  are imported, as far as they are fit for it, the supervisor answers PRELOADED {"bytes": its memory}.
- *call*, from the worker: HELLO {"role": "worker", "protocol", "generation": n, "pid"}; then a request and one reply each.
  Generation counts workers from 1. Either side that loses its connection connects anew and greets again; the worker's
  state survives that. The orchestrator sends CONFIG again on every new control connection.

Process 1 of a shared sandbox (`host.py`) runs no calls. It gets no CONFIG, may get PRELOAD first of all, and then ADD {"slot":
name, "uid", "limits": {name of an RLIMIT: n}}: fork a supervisor for one session, which has that user id and connects to the
socket of the directory with that name. REMOVE {"slot"}: end all that runs under its user id and remove its files; then it
answers REMOVED {"slot", "clean": bool}, `clean` being false where files may be left.

CONFIG: {"env": {str: str}, "max_reply_bytes", "max_content_bytes", "max_output_bytes", "max_items", "max_references",
"max_reference_bytes", "first": bool, "orphan_s", "fsize_bytes", "egress": bool}; `env` is set before the first worker is forked,
after the variables of a proxy with `egress` (`egress.py`). `first` is false where an earlier sandbox of the session was
lost: its references must not be taken for those of this one. The first worker is forked only after CONFIG.

Requests (`REQUESTS`); "sessionid" (left empty), "session" and "timeout" in their bodies are ignored:
- CALL: the client's {"namepath", "args", …} as it came. COMPOSE: {"args", …, "pipeline": […]} or {"listop": {…}}, as it came
  or as the orchestrator made it of a part; {"piped": value}, in typed form, is then the last positional argument of its
  first stage. DESCRIBE: the client's {"namepath"}. REFERENCES: empty.
- `extra` is an envelope or nothing. An envelope: 4 bytes, big-endian, the length of a JSON head; the head,
  {"forms": [name, …], "files": [[name, bytes], …]}; then the files, one after another. `forms` are those of `FORMS` that the
  client takes, the one it likes best first; without an envelope it is ["json"]. Files are what `{"$file": name}` and
  `{"$array": name}` in the body mean.

Replies (`REPLIES`), one to each request:
- VALUE: the whole HTTP body, at most `max_reply_bytes` of it. In typed form (`values/typed.py`) `extra` is an envelope with
  `files` only, at most `max_content_bytes` of them; else it is empty.
- CONTENT: `extra` is the value itself in another form, at most `max_content_bytes` of it, and the body says what it is:
  {"form": one of `FORMS`, "type": str, "ms": float}.
- RAISED and UNSERIALISABLE: the whole HTTP body. The code of an UNSERIALISABLE one is one of `NO_VALUE`.
- REFUSED: {"code", "detail", "field"?, "stage"?, "item"?, "available"?} with code one of `REFUSALS`; `available` lists the
  forms that a `not_acceptable` value has.
Before the reply to a request with the flag STREAM there may be EVENTS, whose bodies, JSON objects on one line each, go to
the client as they are: OUTPUT {"stdout": text} or {"stderr": text}; and, where JSON is the only form, ITEM {"index": int,
"value": …}.
A reply that its worker could not send is lost, not repeated.
"""

# Imports little: it stands between the start of an interpreter and the supervisor's greeting.
from __future__ import annotations

from _socket import MSG_WAITALL
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

PROTOCOL = 2
HEADER = Struct(">B3sIIQ")
ENVELOPE = Struct(">I")

HELLO = 1
CONFIG = 2
RESTART = 3
STOP = 4
EXITED = 5
PRELOAD = 6
PRELOADED = 7
ADD = 8
REMOVE = 9
REMOVED = 10
CALL = 16
COMPOSE = 17
DESCRIBE = 18
REFERENCES = 19
VALUE = 32
RAISED = 33
UNSERIALISABLE = 34
REFUSED = 35
CONTENT = 36
OUTPUT = 48
ITEM = 49

REQUESTS = frozenset({CALL, COMPOSE, DESCRIBE, REFERENCES})
REPLIES = frozenset({VALUE, RAISED, UNSERIALISABLE, REFUSED, CONTENT})
EVENTS = frozenset({OUTPUT, ITEM})
REFUSALS = frozenset(
    {
        "invalid_request",
        "name_not_found",
        "attribute_not_found",
        "not_callable",
        "reference_not_found",
        "too_many_references",
        "not_acceptable",
    }
)
NO_VALUE = frozenset({"value_not_serializable", "too_many_items", "reply_too_large", "reference_too_large"})

JSON = "json"
TYPED = "typed"  # JSON with attachments (`values/typed.py`)
# Forms of a value. All but the first two are CONTENT.
FORMS = frozenset({JSON, TYPED, "octets", "text", "csv", "png", "svg", "arrow", "npy"})

# Files beside a reply in typed form.
MAX_FILES = 100_000

# Bits of the last flags byte of a request.
NONFINITE_AS_STRINGS = 1  # NaN and infinities come back as strings, not as null
STREAM = 2  # events may come before the reply


class Frame:
    """One frame as it came."""

    __slots__ = ("body", "call_id", "extra", "flags", "kind")

    def __init__(self, kind: int, flags: int, call_id: int, body: bytes, extra: bytes = b"") -> None:
        self.kind = kind
        self.flags = flags
        self.call_id = call_id
        self.body = body
        self.extra = extra


class FrameError(Exception):
    """The peer sent what is no frame, or closed inside one."""


def encode(kind: int, body: bytes = b"", *, call_id: int = 0, flags: int = 0) -> bytes:
    return HEADER.pack(kind, flags.to_bytes(3, "big"), len(body), 0, call_id) + body


def encode_json(kind: int, members: dict[str, Any]) -> bytes:
    import json  # not wanted before the greeting

    return encode(kind, json.dumps(members).encode())


def read(sock: socket, *, max_bytes: int, at_once: int = HEADER.size) -> Frame | None:
    """The next frame from a blocking socket; None at a clean end. Raises FrameError, OSError.

    `at_once`: bytes to ask for at first. More than a header only where no other frame comes before this one is answered:
    a small one then takes a single system call.
    """
    data = sock.recv(at_once)
    if not data:
        return None
    if len(data) < HEADER.size:
        data = _complete(sock, data, HEADER.size)
    kind, flags, length, extra, call_id = HEADER.unpack_from(data)
    if length > max_bytes or extra > max_bytes:
        msg = f"a frame of {length} and {extra} bytes is over the limit of {max_bytes}"
        raise FrameError(msg)
    end = HEADER.size + length
    if len(data) > end + extra:
        msg = "a frame came before the one before it was answered"
        raise FrameError(msg)
    body = _take(sock, data[HEADER.size : end], length)
    return Frame(kind, int.from_bytes(flags, "big"), call_id, body, _take(sock, data[end:], extra))


def _take(sock: socket, data: bytes, count: int) -> bytes:
    """`data` and what is missing of it to `count` bytes."""
    if not data and count:
        data = sock.recv(count, MSG_WAITALL)
    return data if len(data) == count else _complete(sock, data, count)


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
