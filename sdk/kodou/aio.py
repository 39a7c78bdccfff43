"""The client for asyncio and trio."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx

from kodou import protocol
from kodou.connection import SILENCE_S, Address, ours, plain, streams, timeouts
from kodou.protocol import Progress, Request, Response, Setup
from kodou.session import AsyncSession
from kodou.stream import SetupReader

if TYPE_CHECKING:
    from typing import Self


class AsyncClient:
    """See `kodou.Client`: the same, awaited. Tasks may share one."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        silence_s: float = SILENCE_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._address = Address(url, token)
        self._http = httpx.AsyncClient(
            headers=self._address.headers,
            timeout=timeouts(silence_s),
            transport=transport,
            trust_env=not self._address.local,
        )

    async def setup(
        self,
        dependencies: Iterable[str] = (),
        version: str | None = None,
        *,
        progress: Callable[[Progress], object] | None = None,
        **options: Any,
    ) -> AsyncSession:
        """See `Client.setup`. `progress` is called, not awaited."""
        request = protocol.setup_request(dependencies, version, options=options, stream=progress is not None)
        if progress is None:
            setup = protocol.read_setup(await self.send(request))
        else:
            setup = await self._follow(request, progress)
        return AsyncSession(self, setup.session_id, setup.environment, setup.expires)

    def session(self, id: str) -> AsyncSession:
        """See `Client.session`."""
        return AsyncSession(self, id)

    async def send(self, request: Request) -> Response:
        """One request of `kodou.protocol`. Raises `Unreachable`."""
        with ours(self._address.url):
            return plain(
                await self._http.request(
                    request.method, self._address.url_of(request), content=request.body, headers=request.headers
                )
            )

    async def _follow(self, request: Request, progress: Callable[[Progress], object]) -> Setup:
        reader = SetupReader(progress)
        with ours(self._address.url):
            async with self._http.stream(
                request.method, self._address.url_of(request), content=request.body, headers=request.headers
            ) as response:
                if not streams(response):
                    await response.aread()
                    return protocol.read_setup(plain(response))
                async for chunk in response.aiter_bytes():
                    setup = reader.feed(chunk, request_id=response.headers.get("x-request-id"))
                    if setup is not None:
                        return setup
        raise reader.ended()

    async def close(self) -> None:
        """Let go of the connections; sessions live on. May be called twice."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
