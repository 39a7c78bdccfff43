"""One request and its reply: what the server hands to the app as `scope`, `receive` and `send`.

In place of uvicorn's `RequestResponseCycle`, which looks at each header of each reply with two regular expressions, sends head
and body apart, and copies a body twice: together a sixth of what a call costs this process.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from orchestrator.api.problems import Header

_NO_BODY = frozenset({204, 304})
# A body up to this is sent behind its head in one piece; a copy of a larger one costs more than it saves. (Not `writelines`:
# what uvloop keeps of it is missing in `get_write_buffer_size`, by which slow readers are found.)
_SMALL_BYTES = 64 * 1024
# RFC 9110, 5.1 and 5.5: what a header's name is made of, and what its value must not hold. Nothing of a client's or a
# runner's is to begin a line of its own.
_NAME = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_CONTROLS = bytes(byte for byte in (*range(0x20), 0x7F) if byte != 0x09)

_log = logging.getLogger("uvicorn.error")


class Exchange:
    """Has the members that uvicorn's protocol and server look at, and those that it sets as a request arrives."""

    # Those that are as here for nearly all of its time cost nothing to set.
    body = b""  # arrived and not taken
    more_body = True
    disconnected = False
    response_started = False
    response_complete = False
    _head = b""  # of a reply whose body is yet to come: they go out together
    _left: int | None = None  # bytes of the reply's body that its head tells of; None: it goes out in chunks

    def __init__(
        self,
        scope: Scope,
        transport: asyncio.Transport,
        flow: FlowControl,
        default_headers: list[Header],
        *,
        expect_100_continue: bool,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        self.scope = scope
        self.transport = transport
        self.flow = flow
        self.default_headers = default_headers
        self.waiting_for_100_continue = expect_100_continue
        self.keep_alive = keep_alive
        self.on_response = on_response
        self.message_event = asyncio.Event()

    async def run_asgi(self, app: ASGIApp) -> None:
        """Run the app; what it leaves undone is cut off, so that nobody takes it for whole."""
        try:
            await app(self.scope, self.receive, self.send)
        except BaseException as exc:
            _log.error("Exception in ASGI application", exc_info=exc)
        finally:
            on_response, self.on_response = self.on_response, _nothing  # it leads back to here
        if self.response_complete or self.disconnected:
            return
        if not self.response_started:
            self.on_response = on_response
            await self._refuse()
            self.on_response = _nothing
            return
        if self._head:
            self.transport.write(self._head)
        self.transport.close()

    async def receive(self) -> Message:
        """What has arrived of the body since the last time; waits for some."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not (self.disconnected or self.response_complete):
            self.flow.resume_reading()
            if not self.message_event.is_set():
                await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = self.body, b""
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def left(self) -> None:
        """The client has: what is sent goes nowhere, and who waits for its body is told."""
        self.disconnected = True
        self.message_event.set()

    async def send(self, message: Message) -> None:
        """Raises RuntimeError: the reply is none that HTTP/1.1 can carry."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started and message["type"] == "http.response.start":
            self._start(message["status"], message["headers"])
        elif self.response_started and not self.response_complete and message["type"] == "http.response.body":
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
        else:
            msg = f"the ASGI message {message['type']!r} is out of place"
            raise RuntimeError(msg)

    def _start(self, status: int, headers: list[Header]) -> None:
        lines = [*self.default_headers, *headers]
        told = dict(lines)
        if b"".join(told).translate(None, _NAME) or _holds_controls(lines):
            msg = "a header that HTTP/1.1 cannot carry"
            raise RuntimeError(msg)
        self.response_started = True
        self.waiting_for_100_continue = False
        if told.get(b"connection") == b"close":
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append((b"connection", b"close"))
        length = told.get(b"content-length")
        if self.scope["method"] == "HEAD" or status in _NO_BODY:
            self._left = 0
        elif length is not None:
            self._left = int(length)
        else:
            lines.append((b"transfer-encoding", b"chunked"))
        head = STATUS_LINE[status] + b"".join([b"%b: %b\r\n" % line for line in lines]) + b"\r\n"
        if self._left is None:  # a stream, whose first piece may be long in coming
            self.transport.write(head)
        else:
            self._head = head

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self._left is None:
            if body:
                self.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
            if not more:
                self.transport.write(b"0\r\n\r\n")
        else:
            self._send_counted(body)
        if more:
            return
        if self._left:
            msg = "the reply's body is shorter than its Content-Length"
            raise RuntimeError(msg)
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    def _send_counted(self, body: bytes) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        left = (self._left or 0) - len(body)
        if left < 0:
            msg = "the reply's body is longer than its Content-Length"
            raise RuntimeError(msg)
        self._left = left
        head, self._head = self._head, b""
        if head and len(body) > _SMALL_BYTES:
            self.transport.write(head)
            head = b""
        if head or body:
            self.transport.write(head + body if head else body)

    async def _refuse(self) -> None:
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body"})


def _holds_controls(lines: list[Header]) -> bool:
    values = b"".join([value for _, value in lines])
    return len(values.translate(None, _CONTROLS)) < len(values)


def _nothing(*_: Any) -> None:
    return
