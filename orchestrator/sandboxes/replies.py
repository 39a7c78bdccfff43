"""What a call may end in, and the strict reading of what a runner sends. Pure.

A reply is a closed set; nothing in it names what we import, open or call. Bodies that go on to the client are checked
to be one JSON object in UTF-8 and passed on as the bytes they are.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import msgspec
from runner import frames

from orchestrator.sandboxes.content import Content
from orchestrator.sandboxes.events import Event

T = TypeVar("T")

_DETAIL_CHARACTERS = 4096
_FIELD_CHARACTERS = 200
_TYPE_CHARACTERS = 200
# The head of a typed reply's files.
MAX_HEAD_BYTES = 8 * 1024 * 1024
_FILE_NAME = re.compile(r"f[0-9]{1,9}")

_Place = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


@dataclass(frozen=True, slots=True)
class Value:
    """`body` is the whole HTTP body, checked to be one JSON object, passed on as it came."""

    body: bytes


@dataclass(frozen=True, slots=True)
class Typed:
    """A reply in typed form: `body` as in `Value`, and the files that it calls by name, one after another in `content`."""

    body: bytes
    files: tuple[tuple[str, int], ...]  # name, bytes
    content: Content


@dataclass(frozen=True, slots=True)
class InForm:
    """The bare value in the form `form` (one of `runner.frames.FORMS`). `type`: its Python type; `ms`: inside the runner."""

    form: str
    type: str
    ms: float
    content: Content


@dataclass(frozen=True, slots=True)
class Raised:
    body: bytes


@dataclass(frozen=True, slots=True)
class NotSerializable:
    body: bytes


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """The call named what is not there. `code` is one of `runner.frames.REFUSALS`.

    `stage`, `item` and `pipe` say where in a composition; `available` lists the forms of a value that has none of those
    asked for.
    """

    code: str
    detail: str
    field: str | None
    stage: int | None = None
    item: int | None = None
    available: tuple[str, ...] = ()
    pipe: int | None = None


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The deadline came; everything the call started is being killed. A fresh worker is on its way, if `restarted`.

    `place` says where in a composition, here and below. One that was not `begun` waited for its turn.
    """

    place: Mapping[str, int] = field(default_factory=dict)
    restarted: bool = True
    begun: bool = True


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker ended under the call (`os._exit`, a signal, out of memory). A fresh one is on its way, if `restarted`."""

    exit_code: int | None
    signal: int | None
    place: Mapping[str, int] = field(default_factory=dict)
    restarted: bool = True


@dataclass(frozen=True, slots=True)
class Violation:
    """The runner broke the protocol, or its process is gone: the sandbox has to go.

    `sent` is False where the request never reached the runner, so that it may be made anew elsewhere.
    """

    reason: str
    sent: bool = True
    place: Mapping[str, int] = field(default_factory=dict)


Reply = Value | Typed | InForm | Raised | NotSerializable | RefusedCall | TimedOut | WorkerDied | Violation


class Malformed(Exception):
    """A frame's body is not what its kind asks for. The text is ours: nothing of the runner's is in it."""


class Hello(msgspec.Struct, frozen=True):
    """The first frame of a connection. Members not named here are allowed and not read."""

    role: str
    protocol: int
    generation: Annotated[int, msgspec.Meta(ge=0, lt=2**53)] = 0


class Exited(msgspec.Struct, frozen=True):
    """A worker's end: an exit code, a signal, or neither; and where in a composition it was."""

    code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    signal: Annotated[int, msgspec.Meta(ge=0, le=127)] | None = None
    stage: _Place | None = None
    item: _Place | None = None

    @property
    def place(self) -> Mapping[str, int]:
        places = (("stage", self.stage), ("item", self.item))
        return {name: number for name, number in places if number is not None}


class Preloaded(msgspec.Struct, frozen=True):
    """A supervisor has imported what it was told to, and says what memory it takes."""

    bytes: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]


class Removed(msgspec.Struct, frozen=True):
    """A slot of a shared sandbox that was ended; `clean`: its files are gone, too."""

    slot: str
    clean: bool


class _Refusal(msgspec.Struct, frozen=True):
    code: str
    detail: str
    field: str | None = None
    stage: _Place | None = None
    item: _Place | None = None
    available: tuple[str, ...] = ()


class _FileHead(msgspec.Struct, frozen=True):
    files: tuple[tuple[str, _Place], ...]


class _InForm(msgspec.Struct, frozen=True):
    """The body of a CONTENT frame."""

    form: str
    type: str = ""
    ms: float = 0.0


class _Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an OUTPUT frame. No other members: what says whose an event is, is put beside these."""

    stdout: msgspec.Raw = msgspec.Raw()
    stderr: msgspec.Raw = msgspec.Raw()


class _Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an ITEM frame."""

    index: _Place
    value: msgspec.Raw


_FORWARDED: dict[int, type[Value | Raised | NotSerializable]] = {
    frames.VALUE: Value,
    frames.RAISED: Raised,
    frames.UNSERIALISABLE: NotSerializable,
}
_EVENTS: Mapping[int, tuple[str, msgspec.json.Decoder[Any]]] = {
    frames.OUTPUT: ("output", msgspec.json.Decoder(_Output)),
    frames.ITEM: ("item", msgspec.json.Decoder(_Item)),
}
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_hello = msgspec.json.Decoder(Hello)
_exited = msgspec.json.Decoder(Exited)
_preloaded = msgspec.json.Decoder(Preloaded)
_removed = msgspec.json.Decoder(Removed)
_refusal = msgspec.json.Decoder(_Refusal)
_file_head = msgspec.json.Decoder(_FileHead)
_in_form = msgspec.json.Decoder(_InForm)


def read_reply(kind: int, body: bytes) -> Reply:
    """The reply to a call, one without content. `kind` is one of `frames.REPLIES`. Raises `Malformed`."""
    if kind == frames.REFUSED:
        return _refused(_decode(_refusal, body))
    _decode(_object, body)
    return _FORWARDED[kind](body)


def _refused(refusal: _Refusal) -> RefusedCall:
    if refusal.code not in frames.REFUSALS or not frames.FORMS.issuperset(refusal.available):
        msg = "a call was refused with an unknown code or form"
        raise Malformed(msg)
    return RefusedCall(
        refusal.code,
        refusal.detail[:_DETAIL_CHARACTERS],
        None if refusal.field is None else refusal.field[:_FIELD_CHARACTERS],
        refusal.stage,
        refusal.item,
        refusal.available,
    )


def read_file_head(head: bytes, size: int) -> tuple[tuple[str, int], ...]:
    """Names and sizes of a typed reply's files, which take `size` bytes together. Raises `Malformed`."""
    if len(head) > MAX_HEAD_BYTES:
        msg = "the head of a reply's files is too long"
        raise Malformed(msg)
    files = _decode(_file_head, head).files
    names = {name for name, _ in files if _FILE_NAME.fullmatch(name)}
    if len(names) < len(files) or len(files) > frames.MAX_FILES or sum(count for _, count in files) != size:
        msg = "the files of a reply are not those that it names"
        raise Malformed(msg)
    return files


def read_in_form(body: bytes, content: Content, asked: Collection[str]) -> InForm:
    """The reply of a CONTENT frame. Raises `Malformed`, also for a form that was not asked for."""
    told = _decode(_in_form, body)
    if told.form not in asked or not math.isfinite(told.ms):
        msg = "a value came in a form that was not asked for"
        raise Malformed(msg)
    return InForm(told.form, told.type[:_TYPE_CHARACTERS], told.ms, content)


def read_event(kind: int, body: bytes) -> Event:
    """An event. Raises `Malformed`, also for one that is not on one line."""
    name, decoder = _EVENTS[kind]
    _decode(decoder, body)
    if b"\n" in body or b"\r" in body:
        msg = "an event is not on one line"
        raise Malformed(msg)
    return Event(name, body)


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


def read_preloaded(body: bytes) -> Preloaded:
    """Raises `Malformed`."""
    return _decode(_preloaded, body)


def read_removed(body: bytes) -> Removed:
    """Raises `Malformed`."""
    return _decode(_removed, body)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        # msgspec skips over strings that it does not build without a look at their UTF-8.
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        msg = f"the body of a frame is not the JSON it has to be ({type(exc).__name__})"
        raise Malformed(msg) from None
