"""Streams of server-sent events, read as their bytes come. No I/O here either."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Union

from kodou.errors import BadReply, KodouError
from kodou.messages import Item, Output, Progress, Reply, Response, Setup
from kodou.protocol import checked, failure, read_call, read_object, read_ready, read_reply, read_setup
from kodou.replies import read_value
from kodou.values import Values

Told = Union[Progress, Setup, Output, Item, Reply]


def is_result(told: Told) -> bool:
    """Whether it is the last thing that a stream tells."""
    return isinstance(told, (Setup, Reply))


@dataclass(frozen=True)
class Event:
    """One server-sent event."""

    name: str
    data: str


@dataclass
class EventReader:
    """Reads a stream of server-sent events as its bytes come, split anywhere; lines end in LF or CRLF.

    Source: the HTML standard, section 9.2.6.
    """

    _pending: bytes = b""
    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that this chunk completes."""
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for line in lines:
            event = self._line((line[:-1] if line.endswith(b"\r") else line).decode("utf-8", "replace"))
            if event is not None:
                yield event

    def _line(self, line: str) -> Event | None:
        if not line:
            event = Event(self._name or "message", "\n".join(self._data)) if self._data else None
            self._name, self._data = "", []
            return event
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        return None  # a comment (a sign of life), or a field that this protocol does not use


class Reader(Protocol):
    """What becomes of one streamed response. The last thing that is told is the result."""

    def feed(self, chunk: bytes, headers: Mapping[str, str]) -> Iterator[Told]:
        """What this chunk tells. Raises the `KodouError` of an `error` event."""

    def whole(self, response: Response) -> Told:
        """The result, where the server answered without a stream. Raises a `KodouError`."""

    def ended(self) -> BadReply:
        """What it means that the stream is over before its result."""


class SetupReader:
    """A setup: its progress, then its session."""

    def __init__(self) -> None:
        self._events = EventReader()

    def feed(self, chunk: bytes, headers: Mapping[str, str]) -> Iterator[Progress | Setup]:
        for event in self._events.feed(chunk):
            if event.name == "progress":
                yield _progress(read_object(event.data, 200))
            elif event.name == "ready":
                yield read_ready(read_object(event.data, 200))
            elif event.name == "error":
                raise _failure(event, headers)

    def whole(self, response: Response) -> Setup:
        return read_setup(response)

    def ended(self) -> BadReply:
        msg = "the server's stream ended before the environment was ready; set it up again to follow the same build"
        return BadReply(msg)


class CallReader:
    """A call: what it prints and the items of what it gives, then its reply. `plain`: values as JSON has them."""

    def __init__(self, *, plain: bool = False) -> None:
        self._events = EventReader()
        self._values = None if plain else Values()

    def feed(self, chunk: bytes, headers: Mapping[str, str]) -> Iterator[Output | Item | Reply]:
        for event in self._events.feed(chunk):
            if event.name == "error":
                raise _failure(event, headers)
            if event.name in ("output", "item", "result"):
                yield from self._told(event, read_object(event.data, 200), headers)

    def whole(self, response: Response) -> Reply:
        return read_call(response) if self._values is None else read_value(response)

    def ended(self) -> BadReply:
        msg = "the server's stream ended before the call did; what became of the call is not known"
        return BadReply(msg)

    def _told(
        self, event: Event, members: dict[str, Any], headers: Mapping[str, str]
    ) -> Iterator[Output | Item | Reply]:
        place = {name: members[name] for name in ("pipe", "stage") if name in members}
        if event.name == "output":
            yield from (Output(str(members[name]), name, **place) for name in ("stdout", "stderr") if name in members)
        elif event.name == "item":
            if not isinstance(members.get("index"), int) or "value" not in members:
                msg = "the server's stream has an item without its index and value"
                raise BadReply(msg)
            yield Item(members["index"], self._value(members["value"]), **place)
        else:
            reply = read_reply(checked(members, Response(200, headers, b"")), headers)
            yield replace(reply, value=self._value(reply.value))

    def _value(self, value: Any) -> Any:
        return value if self._values is None else self._values.decode(value)


def _failure(event: Event, headers: Mapping[str, str]) -> KodouError:
    members = read_object(event.data, 200)
    status = members.get("status")
    return failure(members, status if isinstance(status, int) else 500, headers.get("x-request-id"))


def _progress(members: Mapping[str, Any]) -> Progress:
    return Progress(
        phase=str(members.get("phase")),
        package=members.get("package"),
        bytes=members.get("bytes"),
        total=members.get("total"),
        line=members.get("line"),
    )
