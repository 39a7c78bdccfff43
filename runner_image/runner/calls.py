"""One call: read it, run it, and write its reply. Rendering the value is inside the guard: it runs user code as well."""

from __future__ import annotations

import json
import os
from time import perf_counter

from . import describe, frames
from .arguments import parse
from .namepath import apply
from .refusal import NoValue, Refusal, ReplyTooLarge
from .results import drained
from .values import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .capture import Capture


class Limits:
    """Bounds of a reply, from CONFIG."""

    __slots__ = ("max_items", "max_reply_bytes")

    def __init__(self, *, max_reply_bytes: int, max_items: int) -> None:
        self.max_reply_bytes = max_reply_bytes
        self.max_items = max_items


class Calls:
    def __init__(self, capture: Capture, limits: Limits) -> None:
        self._capture = capture
        self._limits = limits
        self._pid = os.getpid()

    def answer(self, body: bytes, flags: int) -> tuple[int, bytes]:
        """The reply to one CALL: its kind and body, which holds what user code raises."""
        start = perf_counter()
        try:
            kind, head = self._run(body, bool(flags & frames.NONFINITE_AS_STRINGS))
        except BaseException as exc:  # SystemExit and KeyboardInterrupt of user code are its exceptions
            self._end_if_forked(exc)
            kind, head = _raised(exc)
        self._end_if_forked(None)
        output = self._capture.take()
        if kind == frames.REFUSED:
            return kind, head
        ms = (perf_counter() - start) * 1000
        reply = _reply(head, output, ms)
        limit = self._limits.max_reply_bytes
        if len(reply) > limit and output:
            reply = _reply(head, {"truncated": True}, ms)
        if len(reply) > limit:
            too_large = ReplyTooLarge(f"the reply takes more than {limit} bytes")
            return frames.UNSERIALISABLE, _reply(_failed(too_large.members), {}, ms)
        return kind, reply

    def _run(self, body: bytes, nonfinite_as_strings: bool) -> tuple[int, bytes]:
        """Kind of the reply and the first part of its body. Raises what user code raises."""
        try:
            result = apply(parse(body))
            self._end_if_forked(None)
            result = drained(result, self._limits.max_items)
            value, type_name = encode(
                result, max_bytes=self._limits.max_reply_bytes, nonfinite_as_strings=nonfinite_as_strings
            )
        except Refusal as refusal:
            return frames.REFUSED, _dumps(refusal.members())
        except NoValue as failure:
            return frames.UNSERIALISABLE, _failed(failure.members)
        head = b'{"error":false,"value":' + value
        if type_name is not None:
            head += b',"type":' + _dumps(type_name)
        return frames.VALUE, head

    def _end_if_forked(self, exc: BaseException | None) -> None:
        """In a child that user code forked: end as a script would, before anything of it goes to the orchestrator."""
        if os.getpid() == self._pid:
            return
        code = exc.code if isinstance(exc, SystemExit) else None if exc is None else 1
        os._exit(0 if code is None else code & 0xFF if isinstance(code, int) else 1)


def _raised(exc: BaseException) -> tuple[int, bytes]:
    try:
        described = describe.exception(exc)
    except BaseException:  # no memory or stack left, or an alarm of the user's
        described = {"type": "", "message": "an exception that could not be described", "traceback": ""}
    return frames.RAISED, _failed({"code": "exception", "exception": described})


def _failed(members: dict[str, Any]) -> bytes:
    return b'{"error":true,' + _dumps(members)[1:-1]


def _reply(head: bytes, output: dict[str, object], ms: float) -> bytes:
    """`head` is an object that is not closed yet."""
    tail = b',"ms":%.3f}' % ms
    return head + b"," + _dumps(output)[1:-1] + tail if output else head + tail


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _dumps(value: Any) -> bytes:
    # Texts of the user's may hold lone surrogates, which UTF-8 does not have.
    return _encode(value).encode("utf-8", "replace")
