"""An HTTP proxy on a Unix socket, for one sandbox. Where a request may go, and how, its `Dialer` decides.

What connects is hostile. It may open tunnels (CONNECT) and fetch (absolute-form requests); heads are bounded in size and
time, connections in number. What travels inside a tunnel the proxy does not look at.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from socket import socket
from typing import Protocol

from orchestrator.egress.heads import MAX_HEAD_BYTES, Rejected, Request, parsed
from orchestrator.egress.relay import Pace, Streams, relay

BACKLOG = 128
_HEAD_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Limits:
    max_connections: int = 128
    head_timeout_s: float = _HEAD_TIMEOUT_S
    idle_timeout_s: float = 120.0
    bytes_per_s: float | None = None  # of all connections together, both ways


class Dialer(Protocol):
    async def __call__(self, request: Request) -> tuple[Streams, bytes]:
        """A connection for the request, and what to send there first. Raises `Rejected`."""


class Proxy:
    """`on_rejected` hears of each request that was understood and yet rejected. `admits` may know of no room for another
    connection, whatever this proxy's own limits are."""

    def __init__(
        self,
        dial: Dialer,
        limits: Limits,
        *,
        on_rejected: Callable[[Request, Rejected], None] = lambda *_: None,
        admits: Callable[[], bool] = lambda: True,
    ) -> None:
        self._dial = dial
        self._limits = limits
        self._on_rejected = on_rejected
        self._admits = admits
        self._pace = Pace(limits.bytes_per_s)
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        return len(self._connections)

    @asynccontextmanager
    async def serving(self, listener: socket) -> AsyncIterator[None]:
        """Serve who connects to `listener`, which is ours now, until the block is left; then every connection is cut."""
        server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_HEAD_BYTES, backlog=BACKLOG)
        try:
            yield
        finally:
            server.close()
            tasks = tuple(self._connections)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function, so that asyncio makes no task of its own that nobody holds.
        task = asyncio.get_running_loop().create_task(self._serve(Streams(reader, writer)))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, client: Streams) -> None:
        try:
            if len(self._connections) > self._limits.max_connections or not self._admits():
                raise Rejected(503, "Too Many Connections")
            await self._pass_on(client)
        except Rejected as rejected:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(self._limits.head_timeout_s):
                    client.writer.write(rejected.answer())
                    await client.writer.drain()
        except (OSError, TimeoutError):
            pass  # a peer went away, or said nothing for too long
        finally:
            await client.close()

    async def _pass_on(self, client: Streams) -> None:
        request = parsed(await self._head(client.reader))
        try:
            server, first = await self._dial(request)
        except Rejected as rejected:
            self._on_rejected(request, rejected)
            raise
        try:
            if request.is_tunnel:
                client.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                server.writer.write(first)
            upload_bytes = None if request.is_tunnel else request.body_bytes
            idle_timeout_s = self._limits.idle_timeout_s
            await relay(client, server, upload_bytes=upload_bytes, idle_timeout_s=idle_timeout_s, pace=self._pace)
        finally:
            await server.close()

    async def _head(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._limits.head_timeout_s):
                return (await reader.readuntil(b"\r\n\r\n"))[:-4]
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            raise Rejected(400) from exc
