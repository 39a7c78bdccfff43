"""One request: read it, run it, and write its reply. Rendering the value is inside the guard: it runs user code as well."""

from __future__ import annotations

import json
import os
from time import perf_counter

from . import describe, frames
from .evaluation.arguments import Reader, Request, may_hold_tags, parse
from .evaluation.namepath import apply
from .evaluation.results import drained, told
from .refusal import ArgumentRaised, NotAcceptable, NoValue, Refusal, ReplyTooLarge
from .values.rendering import encode
from .values.text import utf8

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping

    from .capture import Capture
    from .evaluation.composition import Composition
    from .evaluation.references import References
    from .place import Place
    from .stream import Stream
    from .values.images import Content

    Reply = tuple[int, bytes, list[Content]]  # kind, body, pieces of extra

_ONLY_JSON = [frames.JSON]
# What a kept object is shown in: an object of JSON.
_FORMS_OF_KEPT = (frames.JSON, frames.TYPED)
_WORK = frozenset({frames.CALL, frames.COMPOSE})
_COMPLETE = frozenset({frames.VALUE, frames.CONTENT})
# What a reply holds beside its head and what was printed: room enough for `ms`.
_REST_BYTES = 64


class Limits:
    """Bounds of a reply and of what is kept, from CONFIG."""

    __slots__ = ("max_content_bytes", "max_items", "max_reference_bytes", "max_references", "max_reply_bytes")

    def __init__(
        self,
        *,
        max_reply_bytes: int,
        max_content_bytes: int,
        max_items: int,
        max_references: int,
        max_reference_bytes: int,
    ) -> None:
        self.max_reply_bytes = max_reply_bytes
        self.max_content_bytes = max_content_bytes
        self.max_items = max_items
        self.max_references = max_references
        self.max_reference_bytes = max_reference_bytes

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Limits:
        return cls(**{name: int(config[name]) for name in cls.__slots__})


class Calls:
    """Answers requests, and keeps what they keep."""

    def __init__(self, capture: Capture, limits: Limits, place: Place, *, first: bool) -> None:
        """`place` says where a request is. `first`: this is the first worker of the session, no other kept anything before
        it."""
        self._capture = capture
        self._limits = limits
        self._place = place
        self._first = first
        self._pid = os.getpid()
        self._kept: References | None = None
        self._reader = Reader(self._references)  # of requests without tags

    def answer(self, frame: frames.Frame, events: Stream | None = None) -> Reply:
        """The reply to one request, which holds what user code raises. `events` are told of items as they come."""
        if frame.kind != frames.COMPOSE:
            return self._answer(frame, events)
        from .processes import end_all_but, running

        before = running()
        reply = self._answer(frame, events)
        self._place.take()
        if reply[0] not in _COMPLETE:
            end_all_but(before)
        return reply

    def _answer(self, frame: frames.Frame, events: Stream | None) -> Reply:
        start = perf_counter()
        extra: list[Content] = []
        try:
            kind, head, extra = self._run(frame, events)
        except BaseException as exc:  # SystemExit and KeyboardInterrupt of user code are its exceptions
            self._end_if_forked(exc)  # before it takes the place, which is the call's
            kind, head = _failure(exc, self._place.take())
        self._end_if_forked()
        output = self._capture.take()
        if kind == frames.REFUSED:
            return kind, head, []
        ms = (perf_counter() - start) * 1000
        if kind == frames.CONTENT:
            return kind, _reply(head, {}, ms), extra
        reply = _reply(head, output, ms)
        if len(reply) > self._limits.max_reply_bytes:
            return self._without_output(kind, head, ms, extra)
        return kind, reply, extra

    def _without_output(self, kind: int, head: bytes, ms: float, extra: list[Content]) -> Reply:
        """What is left of a reply that is too large with what was printed: the value, or not even that."""
        reply = _reply(head, {"truncated": True}, ms)
        limit = self._limits.max_reply_bytes
        if len(reply) > limit:
            too_large = ReplyTooLarge(f"the reply takes more than {limit} bytes")
            return frames.UNSERIALISABLE, _reply(_failed(too_large.members), {}, ms), []
        return kind, reply, extra

    def _run(self, frame: frames.Frame, events: Stream | None) -> Reply:
        """Kind of the reply, the first part of its body, and what goes beside it.

        Raises: Refusal, NoValue. Whatever user code raises.
        """
        forms, files = _ONLY_JSON, None
        if frame.extra:
            from . import envelope

            opened = envelope.read(frame.extra)
            forms, files = opened.forms, opened.files
        nonfinite_as_strings = bool(frame.flags & frames.NONFINITE_AS_STRINGS)
        if frame.kind not in _WORK:
            return self._rendered(self._looked_up(frame), forms, nonfinite_as_strings)
        reader = self._reader
        if files or may_hold_tags(frame.body):
            from .evaluation.tags import Tags

            reader = Reader(self._references, Tags(self._references, files or {}))
        request = parse(frame.body, reader) if frame.kind == frames.CALL else self._composition(frame.body, reader)
        try:
            if request.keep:
                return self._keep(request, forms, nonfinite_as_strings)
            value = self._returned(request)
            if events is not None and forms == _ONLY_JSON:
                count = told(value, self._teller(events, nonfinite_as_strings))
                if count is not None:
                    return frames.VALUE, b'{"error":false,"value":null,"items":%d' % count, []
            return self._rendered(drained(value, self._limits.max_items), forms, nonfinite_as_strings)
        except Refusal:
            request.drop = None
            raise
        finally:
            if request.drop:
                self._references().drop(request.drop)

    def _composition(self, body: bytes, reader: Reader) -> Composition:
        from .evaluation.composition import Composition  # few sessions compose

        return Composition(body, reader, self._place)

    def _returned(self, request: Request | Composition) -> Any:
        if isinstance(request, Request):
            value = apply(request)
        else:
            value = request.run(max_items=self._limits.max_items, after_each=self._end_if_forked)
        self._end_if_forked()
        return value

    def _looked_up(self, frame: frames.Frame) -> Any:
        if frame.kind == frames.REFERENCES:
            return self._references().listed()
        from .discovery.discover import discover

        return discover(frame.body, self._references().get)

    def _rendered(self, value: Any, forms: list[str], nonfinite_as_strings: bool) -> Reply:
        limits = self._limits
        if forms == _ONLY_JSON:
            text, name = encode(value, max_bytes=limits.max_reply_bytes, nonfinite_as_strings=nonfinite_as_strings)
            return frames.VALUE, _head(text, name), []
        from .values.forms import render

        rendered = render(
            value,
            forms,
            max_bytes=limits.max_reply_bytes,
            max_content_bytes=limits.max_content_bytes,
            nonfinite_as_strings=nonfinite_as_strings,
        )
        if rendered.form == frames.JSON:
            return frames.VALUE, _head(rendered.body, rendered.type), []
        if rendered.form == frames.TYPED:
            from . import envelope

            return frames.VALUE, _head(rendered.body, rendered.type), envelope.write(rendered.files)
        about = {"form": rendered.form, "type": describe.type_name(type(value))}
        return frames.CONTENT, _dumps(about)[:-1], [rendered.content]

    # --- what is kept ---

    def _references(self) -> References:
        if self._kept is None:
            from .evaluation.references import References  # few sessions keep anything

            limits = self._limits
            self._kept = References(
                max_references=limits.max_references, max_bytes=limits.max_reference_bytes, first=self._first
            )
        return self._kept

    def _keep(self, request: Request | Composition, forms: list[str], nonfinite_as_strings: bool) -> Reply:
        references, drop = self._references(), request.drop or ()
        references.check_room(drop)
        possible = [form for form in forms if form in _FORMS_OF_KEPT]
        if not possible:
            msg = "what stands for a kept object is an object of JSON"
            raise NotAcceptable(msg, _FORMS_OF_KEPT)
        value = self._returned(request)
        references.drop(drop)
        shown = references.keep(value)
        reply = self._rendered(shown, _ONLY_JSON, nonfinite_as_strings)
        if possible[0] == frames.TYPED:  # a tag, which is to stay one
            from . import envelope

            reply = (*reply[:2], envelope.write([]))
        if len(reply[1]) + _REST_BYTES > self._limits.max_reply_bytes:
            references.drop([shown["$ref"]])
            msg = "the name, type and repr of what was to be kept take more bytes than a reply may"
            raise ReplyTooLarge(msg)
        return reply

    def _teller(self, events: Stream, nonfinite_as_strings: bool) -> Callable[[int, Any], None]:
        limit, place = self._limits.max_reply_bytes, self._place

        def tell(index: int, item: Any) -> None:
            self._end_if_forked()
            place.at_item(index)
            text, _ = encode(item, max_bytes=limit, nonfinite_as_strings=nonfinite_as_strings)
            self._end_if_forked()
            if len(text) > limit:
                msg = f"an item takes more than {limit} bytes"
                raise ReplyTooLarge(msg)
            events.item(index, text)
            place.past_items()

        return tell

    def _end_if_forked(self, exc: BaseException | None = None) -> None:
        """In a child that user code forked: end as a script would, before anything of it goes to the orchestrator."""
        if os.getpid() == self._pid:
            return
        if isinstance(exc, ArgumentRaised):
            exc = exc.raised
        code = exc.code if isinstance(exc, SystemExit) else None if exc is None else 1
        os._exit(0 if code is None else code & 0xFF if isinstance(code, int) else 1)


def _failure(exc: BaseException, place: Mapping[str, Any]) -> tuple[int, bytes]:
    """Kind and head of the reply to what ended so."""
    if isinstance(exc, Refusal):
        return frames.REFUSED, _dumps({**exc.members(), **place})
    if isinstance(exc, NoValue):
        return frames.UNSERIALISABLE, _failed({**exc.members, **place})
    return _raised(exc, place)


def _raised(exc: BaseException, place: Mapping[str, Any]) -> tuple[int, bytes]:
    if isinstance(exc, ArgumentRaised):
        place = {"field": exc.field, **place}
        exc = exc.raised
    try:
        described = describe.exception(exc)
    except BaseException:  # no memory or stack left, or an alarm of the user's
        described = {"type": "", "message": "an exception that could not be described", "traceback": ""}
    return frames.RAISED, _failed({"code": "exception", "exception": described, **place})


def _head(value: bytes, type_name: str | None) -> bytes:
    head = b'{"error":false,"value":' + value
    return head if type_name is None else head + b',"type":' + _dumps(type_name)


def _failed(members: dict[str, Any]) -> bytes:
    return b'{"error":true,' + _dumps(members)[1:-1]


def _reply(head: bytes, output: dict[str, object], ms: float) -> bytes:
    """`head` is an object that is not closed yet."""
    tail = b',"ms":%.3f}' % ms
    return head + b"," + _dumps(output)[1:-1] + tail if output else head + tail


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _dumps(value: Any) -> bytes:
    return utf8(_encode(value))
