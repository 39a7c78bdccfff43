"""Connections: uvicorn's, with the bounds it lacks. Whoever opens one and then dawdles is cut off.

uvicorn has no limit on the time that a request's head or body takes, nor on how long a reply may lie unread
(https://github.com/encode/uvicorn/issues/157). One sweep a second over all connections costs a request nothing but two
assignments. On top of httptools, never h11, which serves a request hidden in the body of another.
"""

import asyncio
import secrets

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import Server

from orchestrator.api import problems
from orchestrator.api.problems import MalformedRequest, RequestTimeout, TooManyConnections
from orchestrator.errors import KodouError
from orchestrator.settings import Settings

SWEEP_S = 1.0
_BUSY_AFTER_S = 1.0


class Connection(HttpToolsProtocol):
    """One client's connection. `connections` makes the class that has its bounds from settings."""

    max_connections = 1000
    header_timeout_s = 15.0
    body_timeout_s = 30.0
    reply_timeout_s = 60.0

    # In loop time: by when the head, then the body, of the request that is arriving must be there.
    due_by: float | None = None
    unread_since: float | None = None
    unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.due_by = self.loop.time() + self.header_timeout_s
        if len(self.connections) > self.max_connections:
            self._refuse(TooManyConnections("too many connections", after_s=_BUSY_AFTER_S))

    def on_message_begin(self) -> None:
        if self.due_by is None:
            self.due_by = self.loop.time() + self.header_timeout_s
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.due_by = self.loop.time() + self.body_timeout_s
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.due_by = None
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(MalformedRequest("the request is not HTTP/1.1"))

    def check(self, now: float) -> None:
        """Cut the client off if it has kept the server waiting too long. `now` is loop time."""
        if self.due_by is not None and now > self.due_by:
            if self.pipeline or (self.cycle is not None and self.cycle.response_started):
                self.transport.abort()
            else:
                self._refuse(RequestTimeout("the request did not arrive in time"))
            return
        unread = self.transport.get_write_buffer_size()
        if unread == 0 or unread != self.unread_bytes:
            self.unread_bytes = unread
            self.unread_since = now if unread else None
        elif self.unread_since is not None and now - self.unread_since > self.reply_timeout_s:
            self.transport.abort()

    def _refuse(self, error: KodouError) -> None:
        """Answer without the app, and close."""
        request_id = secrets.token_hex(8)
        status, headers, body = problems.render(error, request_id)
        headers += [(b"x-request-id", request_id.encode()), (b"connection", b"close")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
        self.transport.close()


def connections(settings: Settings) -> type[Connection]:
    """The class to give to uvicorn."""

    class Bounded(Connection):
        max_connections = settings.max_connections
        header_timeout_s = settings.header_timeout_s
        body_timeout_s = settings.body_timeout_s
        reply_timeout_s = settings.reply_timeout_s

    return Bounded


async def sweep(server: Server) -> None:
    """Check all connections once a second, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_S)
        for connection in list(server.server_state.connections):
            if isinstance(connection, Connection):
                connection.check(loop.time())
