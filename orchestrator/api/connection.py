"""Connections: uvicorn's, with the bounds it lacks. Whoever opens one and then dawdles is cut off.

uvicorn has no limit on the time that a request's head or body takes, on the size of a head, nor on how long a reply may
lie unread (https://github.com/encode/uvicorn/issues/157); it merges a body's trailers into the headers that were checked.
One sweep a second over all connections costs a request nothing but a few assignments. On top of httptools, never h11,
which serves a request hidden in the body of another.
"""

import asyncio
import math
import re
import secrets
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, Literal
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, parse_url
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import Server

from orchestrator.api import problems
from orchestrator.api.admission import Refuser, admit
from orchestrator.api.exchange import Exchange
from orchestrator.api.problems import HeadTooLarge, MalformedRequest, Rendered, RequestTimeout, TooManyConnections
from orchestrator.errors import KodouError
from orchestrator.settings import Settings

BACKLOG = 2048
SWEEP_S = 1.0
_BUSY_AFTER_S = 1.0
# What a slow reader must take off its reply in each `reply_timeout_s`, if it does not come to the end.
LEAST_READ_BYTES = 256 * 1024
# What a slow sender must bring of an upload in each `body_timeout_s`, if it does not come to the end. Other bodies are held
# in memory while they arrive, and have to be there in that time.
LEAST_SENT_BYTES = 256 * 1024
# Of a body, arrived and not taken: past this no more is read. As much as is read at a time.
_WAITING_BYTES = 256 * 1024
_UPLOAD = b"multipart/form-data"
# Requests that may wait behind one that is being served. A few kilobytes of them would else be megabytes of ours.
_WAITING_REQUESTS = 16
# Paths that may be remembered: those of the hot routes are short, and a query may hold a token.
_SHORT_PATH_BYTES = 200
_LINE_BYTES = 4  # `: ` and the line's end
_VERSIONS = frozenset({"1.0", "1.1"})
# A slash within a segment, which is none between two (RFC 3986, 2.2): who checks paths before us does not see one there.
_SLASH = re.compile("%2f", re.IGNORECASE)


class Connection(HttpToolsProtocol):
    """One client's connection. `connections` makes the class that has its bounds from settings."""

    max_connections = 1000
    max_head_bytes = 32_768
    header_timeout_s = 15.0
    body_timeout_s = 30.0
    reply_timeout_s = 60.0
    keep_alive_s = 75.0
    refusal: Refuser = staticmethod(admit)

    # Whom to let go when there are too many: looked for some at a time, since a crowd comes fast.
    spare: ClassVar[deque["Connection"]] = deque()

    # In loop time: by when the head, then the body (of an upload: enough of it) of the request that arrives must be there.
    due_by: float | None = None
    # By when the next request is to begin. Looked at by the sweep: a timer for each request costs as much as parsing it.
    kept_until = math.inf
    body_bytes = 0  # since the last such moment
    # Bytes since the last step forward: a whole head, a piece of body, a whole request.
    pending_bytes = 0
    in_head = False
    behind = False  # the head that arrives began in the bytes of a request before it, and `pending_bytes` lacks those
    upgrading = False
    fault: KodouError | None = None
    running: Exchange | None = None  # `cycle` is the latest that came, and may wait behind it
    unread_since: float | None = None
    unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.due_by = self.loop.time() + self.header_timeout_s
        if self.crowded() and not self._make_room():
            self._refuse(TooManyConnections("too many connections", after_s=_BUSY_AFTER_S))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.running is not None and not self.running.response_complete:
            self.running.left()

    def crowded(self) -> bool:
        """There are more connections than there may be, this one counted."""
        return len(self.connections) > self.max_connections

    def data_received(self, data: bytes) -> None:
        self.kept_until = math.inf
        if self.fault is not None:
            return  # refused; what is still on its way is not looked at
        if self.due_by is None and not self._busy():
            self.due_by = self.loop.time() + self.header_timeout_s  # even if all that came is an empty line
        self.pending_bytes += len(data)
        if not self.in_head:
            self.behind = False
        try:
            self._feed(data)
            if self.pending_bytes > self.max_head_bytes:
                self._fail(
                    HeadTooLarge(f"more than {self.max_head_bytes} bytes, and neither a head nor a body is whole")
                )
        except HttpParserError:
            self._refuse(self.fault or MalformedRequest("the request is not HTTP/1.1"))
        except HeadTooLarge as exc:
            self._refuse(exc)

    def on_message_begin(self) -> None:
        if self.due_by is None:
            self.due_by = self.loop.time() + self.header_timeout_s
        self.in_head = True
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes after the body is no header: the checks of the head have been made by then.
        if self.in_head:
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.behind or self.pending_bytes > self.max_head_bytes:
            self._check_size()
        if not self.url.startswith(b"/") or b"#" in self.url:
            # Whole URLs and authorities are for proxies, and this is none; fragments stay with the client.
            self._fail(MalformedRequest("the request's target must be a path"))
        if self.parser.get_http_version() not in _VERSIONS:
            self._fail(MalformedRequest("the request is not HTTP/1.1"))
        self.pending_bytes = 0
        self.in_head = False
        self.upgrading = self.parser.should_upgrade()
        if self.upgrading:
            return  # `_feed` begins again without
        self.due_by = self.loop.time() + self.body_timeout_s
        self.body_bytes = 0
        self._begin()

    def on_body(self, body: bytes) -> None:
        self.pending_bytes = 0
        self.body_bytes += len(body)
        if not self._busy():
            return
        cycle = self.cycle
        cycle.body += body
        if len(cycle.body) > _WAITING_BYTES:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.upgrading:
            return
        self.due_by = None
        self.pending_bytes = 0
        self.behind = True
        if self._busy():
            super().on_message_complete()
        else:  # it was answered before it had come
            self.kept_until = self.loop.time() + self.keep_alive_s

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self.running, app = self.pipeline.pop()  # type: ignore[assignment]  # `Exchange`, all of them
            self._start_asgi_task(self.running, app)  # type: ignore[arg-type]
        else:
            self.flow.resume_reading()
            self.kept_until = self.loop.time() + self.keep_alive_s

    def check(self, now: float) -> None:
        """Cut the client off if it has kept the server waiting too long. `now` is loop time."""
        if now > self.kept_until:
            self.transport.close()
            return
        if self.due_by is not None and now > self.due_by:
            if self.fault is not None:
                self.transport.abort()  # it does not even take the refusal
            elif self._arrives():
                self.due_by, self.body_bytes = now + self.body_timeout_s, 0
            else:
                self._refuse(RequestTimeout("the request did not arrive in time"))
            return
        unread = self.transport.get_write_buffer_size()
        if unread == 0 or self.unread_since is None:
            self.unread_bytes = unread
            self.unread_since = now if unread else None
        elif now - self.unread_since > self.reply_timeout_s:
            if self.unread_bytes - unread < LEAST_READ_BYTES:
                self.transport.abort()
            self.unread_bytes, self.unread_since = unread, now

    def waits_since(self) -> float:
        """For choosing whom to let go, the longest first: infinite while a request is being served."""
        if self._busy() or self.pipeline:
            return math.inf
        # A request that does not come goes before a connection that is only kept for the next one.
        return self.due_by if self.due_by is not None else self.loop.time() + self.header_timeout_s

    def _begin(self) -> None:
        """Hand the request to the app, which takes its body as it comes; after those that came before it."""
        if self.behind and self.transport.is_closing():
            return  # one before it had the last reply: the parser keeps HTTP/1.0 connections open that ask for it
        url, parser = self.url, self.parser
        version = parser.get_http_version()
        target = _target(url) if len(url) < _SHORT_PATH_BYTES and b"?" not in url else _parsed(url)
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": self.scheme or "http",
            "path": target[0],
            "raw_path": target[1],
            "query_string": target[2],
            "root_path": "",
            "headers": self.headers,
            "server": self.server,
            "client": self.client,
            "state": self.app_state.copy(),
        }
        before = self.cycle
        keep_alive = version != "1.0" and parser.should_keep_alive()
        first = before is None or before.response_complete
        # At once, but for who sends many without waiting for the replies, or does not read them: the app bounds those.
        if first and not self.behind and not self.flow.write_paused:
            refusal = self.refusal(self.scope)  # type: ignore[arg-type]  # as below
            if refusal is not None:
                self.server_state.total_requests += 1
                self._answer(refusal, keep_alive=keep_alive)
                return
        exchange = Exchange(
            self.scope,  # type: ignore[arg-type]  # uvicorn's type for it is narrower
            self.transport,
            self.flow,
            self.server_state.default_headers,
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        self.cycle = exchange  # type: ignore[assignment]  # in place of uvicorn's own
        if first:
            self.running = exchange
            self._start_asgi_task(self.cycle, self.app)
        else:
            if len(self.pipeline) == _WAITING_REQUESTS:
                self._fail(MalformedRequest("too many requests before the first was answered"))
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _arrives(self) -> bool:
        """The upload that is due keeps coming, or it is we who do not take it. One that was refused has no more time."""
        enough = self.body_bytes >= LEAST_SENT_BYTES or self.flow.read_paused
        if self.in_head or not self._busy() or not enough:
            return False
        return any(name == b"content-type" and value.lower().startswith(_UPLOAD) for name, value in self.headers)

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _make_room(self) -> bool:
        """Close the connection that has waited longest without a request."""
        if not self.spare:
            others = [each for each in self.connections if isinstance(each, Connection) and each is not self]
            self.spare.extend(sorted(others, key=Connection.waits_since)[: 1 + len(others) // 10])
        while self.spare:
            longest = self.spare.popleft()
            if longest in self.connections and longest.waits_since() < math.inf:
                longest.transport.abort()
                self.connections.discard(longest)  # now, not when the loop comes to it: the next newcomer counts again
                return True
        return False

    def _feed(self, data: bytes) -> None:
        """Give the parser what came. An upgrade is not made, so that the request is an ordinary one (RFC 9110 7.8); but the
        parser takes no body after the header that asks for one: it gets the head again without it.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except HttpParserUpgrade as exc:
                kept = [(name, value) for name, value in self.headers if name != b"upgrade"]
                start = self.parser.get_method() + b" " + self.url + b" HTTP/1.1"
                data = b"\r\n".join([start, *(b"%b: %b" % header for header in kept), b"", data[exc.args[0] :]])
                self.parser = HttpRequestParser(self)
            else:
                return

    def _check_size(self) -> None:
        """Raises: HeadTooLarge."""
        lines = sum(len(name) + len(value) + _LINE_BYTES for name, value in self.headers)
        if len(self.url) + lines > self.max_head_bytes:
            self._fail(HeadTooLarge(f"the request line and headers are over the limit of {self.max_head_bytes} bytes"))

    def _fail(self, error: KodouError) -> None:
        """Stop the parser, which tells of any error in its own words only."""
        self.fault = error
        raise error

    def _refuse(self, error: KodouError) -> None:
        """Answer without the app, and close. Without an answer where the client would take it for that to another request."""
        self.fault = error
        if self.pipeline or (self._busy() and (self.in_head or self.cycle.response_started)):
            self.transport.abort()
            return
        request_id = secrets.token_hex(8)
        status, headers, body = problems.render(error, request_id)
        headers += [*problems.SECURITY_HEADERS, (b"x-request-id", request_id.encode())]
        self._answer((status, headers, body), keep_alive=False)

    def _answer(self, refusal: Rendered, *, keep_alive: bool) -> None:
        """Without the app. What is still to come of the request's body is dropped as it comes."""
        status, headers, body = refusal
        lines = [*self.server_state.default_headers, *headers]
        if not keep_alive:
            lines.append((b"connection", b"close"))
        head = b"".join([b"%b: %b\r\n" % line for line in lines])
        self.transport.write(b"".join((STATUS_LINE[status], head, b"\r\n", body)))
        if not keep_alive:
            self.transport.close()


def _parsed(url: bytes) -> tuple[str, bytes, bytes]:
    """Path, the path as it came, and the query. Raises HttpParserError."""
    parsed = parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(_SLASH.sub("%252F", path)) if "%" in path else path, parsed.path, parsed.query or b""


_target = lru_cache(maxsize=256)(_parsed)


def connections(settings: Settings, refusal: Refuser = admit, base: type[Connection] = Connection) -> type[Connection]:
    """The class to give to uvicorn. `refusal`: the app's, if it is in this process."""

    class Bounded(base):  # type: ignore[misc, valid-type]
        spare: ClassVar[deque[Connection]] = deque()
        max_connections = settings.max_connections
        max_head_bytes = settings.max_head_bytes
        header_timeout_s = settings.header_timeout_s
        body_timeout_s = settings.body_timeout_s
        reply_timeout_s = settings.reply_timeout_s
        keep_alive_s = settings.keep_alive_s

    Bounded.refusal = staticmethod(refusal)
    return Bounded


def configured(app: ASGIApp, settings: Settings, *, http: type[Connection], lifespan: Literal["on", "off"]) -> Config:
    """uvicorn's settings from ours."""
    return Config(
        app,
        http=http,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_s,  # type: ignore[arg-type]  # seconds; a float serves as well
        timeout_graceful_shutdown=settings.shutdown_s,  # type: ignore[arg-type]
        backlog=BACKLOG,
    )


async def sweep(server: Server, may_lie_unread: Callable[[int], int]) -> None:
    """Check all connections once a second, for ever. `may_lie_unread`: of as many bytes, in all replies, how many may stay."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_S)
        found = [each for each in server.server_state.connections if isinstance(each, Connection)]
        for connection in found:
            connection.check(loop.time())
        _cut_slowest(found, may_lie_unread)


def _cut_slowest(found: list[Connection], may_lie_unread: Callable[[int], int]) -> None:
    """Let go of those that have waited longest to be read, until the rest may stay."""
    unread = [each for each in found if each.unread_since is not None]
    total = sum(each.transport.get_write_buffer_size() for each in unread)
    most = may_lie_unread(total)
    for connection in sorted(unread, key=lambda each: each.unread_since or 0.0):
        if total <= most:
            return
        total -= connection.transport.get_write_buffer_size()
        connection.transport.abort()
