"""An HTTP proxy on a Unix socket: the only way out of a builder sandbox, to the package index and nowhere else.

What connects is a package's build code, so hostile. It may open tunnels (CONNECT) and fetch (absolute-form GET, HEAD)
from the listed hosts; heads are bounded in size and time, connections in number. What travels inside a tunnel is TLS
between the sandbox and the index: the proxy does not see it.
"""

import asyncio
import base64
import os
import re
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.environments.index import Index
from orchestrator.settings import Settings

MAX_HEAD_BYTES = 16 * 1024
MAX_CONNECTIONS = 128
HEAD_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 20.0
IDLE_TIMEOUT_S = 120.0
_CHUNK_BYTES = 64 * 1024
_BACKLOG = 128

_REQUEST_LINE = re.compile(r"(CONNECT|GET|HEAD) ([\x21-\x7e]+) HTTP/1\.[01]", re.ASCII)
_HEADER = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([\x20-\x7e\t]*?)[ \t]*", re.ASCII)
_AUTHORITY = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})", re.ASCII)
_HOP_BY_HOP = frozenset(
    ("connection", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade")
)
_BODY_HEADERS = frozenset(("content-length", "transfer-encoding"))
_REASONS = {400: "Bad Request", 403: "Forbidden", 502: "Bad Gateway", 503: "Service Unavailable"}


class _Rejected(Exception):
    """The request is answered with `status` and the connection closed."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class IndexProxy:
    """Passes on what goes to `allowed` (host, port); `upstream` is the operator's own proxy, `http://[user:password@]host:port`."""

    def __init__(self, allowed: Collection[tuple[str, int]], *, upstream: str | None) -> None:
        self._allowed = frozenset((host.lower(), port) for host, port in allowed)
        self._upstream = None if upstream is None else urlsplit(upstream)
        self._connections: set[asyncio.Task[None]] = set()

    @classmethod
    def for_index(cls, settings: Settings) -> "IndexProxy":
        return cls(Index.of(settings).authorities, upstream=settings.index_proxy)

    @asynccontextmanager
    async def listening(self, directory: Path) -> AsyncIterator[Path]:
        """Serve at `directory`/s (mode 0666) until the block is left; then every connection is cut."""
        path = directory / "s"
        server = await asyncio.start_unix_server(self._accept, sock=_bound(directory), limit=MAX_HEAD_BYTES)
        try:
            yield path
        finally:
            server.close()
            tasks = tuple(self._connections)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            path.unlink(missing_ok=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function, so that asyncio makes no task of its own that nobody holds.
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if len(self._connections) > MAX_CONNECTIONS:
                raise _Rejected(503)
            await self._pass_on(reader, writer)
        except _Rejected as rejected:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(HEAD_TIMEOUT_S):
                    writer.write(_answer(rejected.status))
                    await writer.drain()
        except (OSError, TimeoutError):
            pass  # a peer went away, or said nothing for too long
        finally:
            await _close(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, headers = _parsed(await _head(reader))
        host, port, path = _destination(method, target)
        if (host, port) not in self._allowed:
            raise _Rejected(403)
        if method != "CONNECT" and any(name.lower() in _BODY_HEADERS for name, _ in headers):
            raise _Rejected(400)
        up_reader, up_writer = await self._open(host, port, tunnel=method == "CONNECT")
        try:
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                up_writer.write(self._request(method, target, path, headers))
            await _splice((reader, writer), (up_reader, up_writer), tunnel=method == "CONNECT")
        finally:
            await _close(up_writer)

    async def _open(self, host: str, port: int, *, tunnel: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that ends at `host`, through the upstream proxy where there is one."""
        at, at_port = host, port
        if self._upstream is not None:
            at, at_port = self._upstream.hostname or "", self._upstream.port or 80
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(at, at_port, limit=MAX_HEAD_BYTES)
        except (OSError, TimeoutError) as exc:
            raise _Rejected(502) from exc
        if self._upstream is not None and tunnel:
            name = f"[{host}]" if ":" in host else host
            lines = [f"CONNECT {name}:{port} HTTP/1.1", f"Host: {name}:{port}", *self._authorization()]
            try:
                writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
                status = (await _head(reader)).split(" ", 2)[1:2]
            except (OSError, TimeoutError, _Rejected) as exc:
                await _close(writer)
                raise _Rejected(502) from exc
            except BaseException:
                await _close(writer)
                raise
            if status != ["200"]:
                await _close(writer)
                raise _Rejected(502)
        return reader, writer

    def _request(self, method: str, target: str, path: str, headers: list[tuple[str, str]]) -> bytes:
        kept = [f"{name}: {value}" for name, value in headers if name.lower() not in _HOP_BY_HOP]
        line = f"{method} {path if self._upstream is None else target} HTTP/1.1"
        lines = [line, f"Host: {urlsplit(target).netloc}", *kept, "Connection: close"]
        if self._upstream is not None:
            lines += self._authorization()
        return "\r\n".join([*lines, "", ""]).encode("ascii")

    def _authorization(self) -> list[str]:
        if self._upstream is None or self._upstream.username is None:
            return []
        pair = f"{unquote(self._upstream.username)}:{unquote(self._upstream.password or '')}"
        return [f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode('ascii')}"]


def _bound(directory: Path) -> socket.socket:
    """The listening socket; bound through the directory's descriptor, so that the length of its path never matters."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/s")
        (directory / "s").chmod(0o666)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(descriptor)
    return listener


async def _head(reader: asyncio.StreamReader) -> str:
    try:
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            return (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("ascii")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, UnicodeDecodeError) as exc:
        raise _Rejected(400) from exc


def _parsed(head: str) -> tuple[str, str, list[tuple[str, str]]]:
    first, *rest = head.split("\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    headers = [_HEADER.fullmatch(each) for each in rest]
    if line is None:
        raise _Rejected(400)
    pairs = [(header[1], header[2]) for header in headers if header is not None]
    if len(pairs) != len(rest):
        raise _Rejected(400)
    return line[1], line[2], pairs


def _destination(method: str, target: str) -> tuple[str, int, str]:
    """Host, port and, for a fetch, path with query."""
    if method == "CONNECT":
        authority, path = _AUTHORITY.fullmatch(target), ""
    else:
        try:
            parts = urlsplit(target)
        except ValueError as exc:  # a bracket without its other half
            raise _Rejected(400) from exc
        if parts.scheme != "http" or "@" in parts.netloc or parts.fragment:
            raise _Rejected(400)
        netloc = parts.netloc if re.search(r":[0-9]+\Z", parts.netloc) else f"{parts.netloc}:80"
        authority, path = _AUTHORITY.fullmatch(netloc), (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if authority is None:
        raise _Rejected(400)
    return authority[1].strip("[]").lower(), int(authority[2]), path


async def _splice(
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    *,
    tunnel: bool,
) -> None:
    """Copy until the server ends or both are idle; of a fetch, nothing more of the client's is passed on."""
    moved = [0]  # chunks, both ways: a long download is not idle because the other way is
    down = asyncio.create_task(_copy(server[0], client[1], moved))
    tasks = [down, asyncio.create_task(_copy(client[0], server[1], moved))] if tunnel else [down]
    try:
        before = -1
        while not down.done() and moved[0] != before:
            before = moved[0]
            await asyncio.wait({down}, timeout=IDLE_TIMEOUT_S)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, moved: list[int]) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
        moved[0] += 1
    if writer.can_write_eof():
        writer.write_eof()


def _answer(status: int) -> bytes:
    return f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode("ascii")


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
