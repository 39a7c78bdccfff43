"""The only way out of a builder sandbox: an HTTP proxy on a Unix socket, to the package index and nowhere else."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from orchestrator.egress.heads import Rejected, Request
from orchestrator.egress.proxy import BACKLOG, Limits, Proxy
from orchestrator.egress.relay import Streams
from orchestrator.egress.upstream import Upstream, connected
from orchestrator.packages.index import Index
from orchestrator.sandboxes.link import SOCKET_NAME, listen
from orchestrator.settings import Settings

CONNECT_TIMEOUT_S = 20.0


class IndexProxy:
    """Passes on what goes to `allowed` (host, port); `upstream` is the operator's own proxy, `http://[user:password@]host:port`."""

    def __init__(
        self, allowed: Collection[tuple[str, int]], *, upstream: str | None, limits: Limits | None = None
    ) -> None:
        self._allowed = frozenset((host.lower(), port) for host, port in allowed)
        self._upstream = None if upstream is None else Upstream(upstream)
        self._limits = limits or Limits()

    @classmethod
    def for_index(cls, settings: Settings) -> "IndexProxy":
        return cls(Index.of(settings).authorities, upstream=settings.index_proxy)

    @asynccontextmanager
    async def listening(self, directory: Path) -> AsyncIterator[Path]:
        """Serve at `directory`/s (mode 0666) until the block is left; then every connection is cut."""
        path = directory / SOCKET_NAME
        listener = listen(directory, owner=None, backlog=BACKLOG)
        try:
            async with Proxy(self._dial, self._limits).serving(listener):
                yield path
        finally:
            listener.close()
            path.unlink(missing_ok=True)

    async def _dial(self, request: Request) -> tuple[Streams, bytes]:
        if request.method not in ("CONNECT", "GET", "HEAD") or request.body_bytes:
            raise Rejected(400)
        if (request.host, request.port) not in self._allowed:
            raise Rejected(403)
        if self._upstream is not None:
            return await self._upstream.open(request, timeout_s=CONNECT_TIMEOUT_S)
        streams = await connected(request.host, request.port, timeout_s=CONNECT_TIMEOUT_S)
        return streams, b"" if request.is_tunnel else request.head()
