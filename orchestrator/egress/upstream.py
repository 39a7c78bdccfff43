"""The operator's own HTTP proxy, where all that goes out has to go through one."""

import asyncio
import base64
from urllib.parse import unquote, urlsplit

from orchestrator.egress.heads import MAX_HEAD_BYTES, Rejected, Request
from orchestrator.egress.relay import Streams


class Upstream:
    """`url`: `http://[user:password@]host:port`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._authorization: list[str] = []
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            encoded = base64.b64encode(pair.encode()).decode("ascii")
            self._authorization = [f"Proxy-Authorization: Basic {encoded}"]

    async def open(self, request: Request, *, timeout_s: float) -> tuple[Streams, bytes]:
        """A connection for the request, and what to send there first. Raises `Rejected`."""
        streams = await connected(self._host, self._port, timeout_s=timeout_s)
        if not request.is_tunnel:
            return streams, request.head(absolute=True, further=self._authorization)
        try:
            await self._tunnel(streams, request.authority, timeout_s)
        except BaseException:
            await streams.close()
            raise
        return streams, b""

    async def _tunnel(self, streams: Streams, authority: str, timeout_s: float) -> None:
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", *self._authorization]
        try:
            async with asyncio.timeout(timeout_s):
                streams.writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
                head = await streams.reader.readuntil(b"\r\n\r\n")
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
            raise Rejected(502) from exc
        if head.split(b" ", 2)[1:2] != [b"200"]:
            raise Rejected(502)


async def connected(host: str, port: int, *, timeout_s: float) -> Streams:
    """A TCP connection. Raises `Rejected`."""
    try:
        async with asyncio.timeout(timeout_s):
            return Streams(*await asyncio.open_connection(host, port, limit=MAX_HEAD_BYTES))
    except (OSError, TimeoutError) as exc:
        raise Rejected(502) from exc
