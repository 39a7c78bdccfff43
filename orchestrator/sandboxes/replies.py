"""What a call may end in, and the strict reading of what a runner sends. Pure.

A reply is a closed set; nothing in it names what we import, open or call. Bodies that go on to the client are checked
to be one JSON object in UTF-8 and passed on as the bytes they are.
"""

from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from runner import frames

T = TypeVar("T")

_DETAIL_CHARACTERS = 4096
_FIELD_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Value:
    """`body` is the whole HTTP body, checked to be one JSON object, passed on as it came."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Raised:
    body: bytes


@dataclass(frozen=True, slots=True)
class NotSerializable:
    body: bytes


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """The call named what is not there. `code` is one of `runner.frames.REFUSALS`."""

    code: str
    detail: str
    field: str | None


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline came; `clean` if the runner confirmed that everything the call started is dead."""

    clean: bool


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker ended under the call (`os._exit`, a signal, out of memory). A fresh one is on its way."""

    exit_code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class Violation:
    """The runner broke the protocol, or its process is gone: the sandbox has to go."""

    reason: str


Reply = Value | Raised | NotSerializable | RefusedCall | TimedOut | WorkerDied | Violation


class Malformed(Exception):
    """A frame's body is not what its kind asks for. The text is ours: nothing of the runner's is in it."""


class Hello(msgspec.Struct, frozen=True):
    """The first frame of a connection. Members not named here are allowed and not read."""

    role: str
    protocol: int
    generation: Annotated[int, msgspec.Meta(ge=0, lt=2**53)] = 0


class Exited(msgspec.Struct, frozen=True):
    """A worker's end: an exit code, a signal, or neither."""

    code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    signal: Annotated[int, msgspec.Meta(ge=0, le=127)] | None = None


class _Refusal(msgspec.Struct, frozen=True):
    code: str
    detail: str
    field: str | None = None


_FORWARDED: dict[int, type[Value | Raised | NotSerializable]] = {
    frames.VALUE: Value,
    frames.RAISED: Raised,
    frames.UNSERIALISABLE: NotSerializable,
}
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_hello = msgspec.json.Decoder(Hello)
_exited = msgspec.json.Decoder(Exited)
_refusal = msgspec.json.Decoder(_Refusal)


def read_reply(kind: int, body: bytes) -> Reply:
    """The reply to a call. `kind` is one of `frames.REPLIES`. Raises `Malformed`."""
    if kind == frames.REFUSED:
        refusal = _decode(_refusal, body)
        if refusal.code not in frames.REFUSALS:
            msg = "a call was refused with an unknown code"
            raise Malformed(msg)
        field = None if refusal.field is None else refusal.field[:_FIELD_CHARACTERS]
        return RefusedCall(refusal.code, refusal.detail[:_DETAIL_CHARACTERS], field)
    _decode(_object, body)
    return _FORWARDED[kind](body)


def read_hello(body: bytes) -> Hello:
    """Raises `Malformed`, also for another protocol version."""
    hello = _decode(_hello, body)
    if hello.protocol != frames.PROTOCOL:
        msg = f"the runner speaks another protocol version than {frames.PROTOCOL}"
        raise Malformed(msg)
    return hello


def read_exited(body: bytes) -> Exited:
    """Raises `Malformed`."""
    return _decode(_exited, body)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        # msgspec skips over strings that it does not build without a look at their UTF-8.
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        msg = f"the body of a frame is not the JSON it has to be ({type(exc).__name__})"
        raise Malformed(msg) from None
