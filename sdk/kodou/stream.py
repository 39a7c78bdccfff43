"""A setup's stream of server-sent events, read as its bytes come. No I/O here either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kodou.errors import BadReply
from kodou.protocol import Progress, Setup, failure, read_object, read_ready


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
            event = self._line(line.removesuffix(b"\r").decode("utf-8", "replace"))
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


@dataclass
class SetupReader:
    """Follows the stream of one setup: hands on its progress, ends with its session."""

    on_progress: Callable[[Progress], object]
    _events: EventReader = field(default_factory=EventReader)

    def feed(self, chunk: bytes, *, request_id: str | None = None) -> Setup | None:
        """The setup, once its `ready` event came. Raises the `KodouError` of an `error` event."""
        for event in self._events.feed(chunk):
            if event.name == "progress":
                members = read_object(event.data, 200)
                self.on_progress(_progress(members))
            elif event.name == "ready":
                return read_ready(read_object(event.data, 200))
            elif event.name == "error":
                members = read_object(event.data, 200)
                status = members.get("status")
                raise failure(members, status if isinstance(status, int) else 500, request_id)
        return None

    def ended(self) -> BadReply:
        """What it means that the stream is over and `feed` never gave a setup."""
        msg = "the server's stream ended before the environment was ready; set it up again to follow the same build"
        return BadReply(msg)


def _progress(members: Mapping[str, Any]) -> Progress:
    return Progress(
        phase=str(members.get("phase")),
        package=members.get("package"),
        bytes=members.get("bytes"),
        total=members.get("total"),
        line=members.get("line"),
    )
