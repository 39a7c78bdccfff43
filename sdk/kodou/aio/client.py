"""The client for asyncio and trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import httpx

from kodou import protocol
from kodou.connection import LIMITS, SILENCE_S, Address, Incoming, ours, plain_headers, streams, timeouts
from kodou.evaluation import Talk
from kodou.messages import Progress, Request, Response, Setup
from kodou.multipart import Form
from kodou.retries import RETRIES, Retries
from kodou.session import AsyncSession
from kodou.stream import Reader, SetupReader, Told, is_result

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")

# Calls under way at once. Streams are not counted: whoever follows one may wait for another, and would keep a turn meanwhile.
MOST_AT_ONCE = 100


class AsyncClient:
    """See `kodou.Client`: the same, awaited. Tasks may share one; of very many, some wait their turn."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        silence_s: float = SILENCE_S,
        retries: int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._address = Address(url, token)
        self._retries = retries
        self._http = httpx.AsyncClient(
            headers=self._address.headers,
            timeout=timeouts(silence_s),
            limits=LIMITS,
            transport=transport,
            trust_env=not self._address.local,
        )
        self._requests = anyio.Semaphore(MOST_AT_ONCE)

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
            setup = await self._set_up(request, progress)
        return AsyncSession(self, setup.session_id, setup.environment, setup.expires)

    async def _set_up(self, request: Request, progress: Callable[[Progress], object]) -> Setup:
        async for told in self.stream(request, SetupReader()):
            if isinstance(told, Setup):
                return told
            progress(told)  # type: ignore[arg-type]
        raise AssertionError  # a stream ends in its result, or raises

    def session(self, id: str) -> AsyncSession:
        """See `Client.session`."""
        return AsyncSession(self, id)

    async def lock(self, environment_id: str) -> Any:
        """See `Client.lock`."""
        return protocol.read_environment(await self.send(protocol.environment_request(environment_id)))["lock"]

    async def send(self, request: Request) -> Response:
        """See `Client.send`."""
        retries = Retries(self._retries)
        while True:
            async with self._requests, self._sent(request) as raw:
                response = await self._read(raw)
            pause_s = retries.pause_s(request, response)
            if pause_s is None:
                return response
            await anyio.sleep(pause_s)

    async def stream(self, request: Request, reader: Reader) -> AsyncIterator[Told]:
        """See `Client.stream`."""
        retries = Retries(self._retries)
        while True:
            async with self._sent(request) as raw:
                if streams(raw):
                    async for told in self._followed(raw, reader):
                        yield told
                    return
                response = await self._read(raw)
            pause_s = retries.pause_s(request, response)
            if pause_s is None:
                yield reader.whole(response)
                return
            await anyio.sleep(pause_s)

    async def run(self, talk: Talk[T]) -> T:
        """See `Client.run`."""
        with closing(talk):
            try:
                request = next(talk)
                while True:
                    request = talk.send(await self.send(request))
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]

    @asynccontextmanager
    async def _sent(self, request: Request) -> AsyncIterator[httpx.Response]:
        """The response, of which the head has come."""
        with ours(self._address.url):
            raw = await self._http.send(self._built(request), stream=True)
        try:
            yield raw
        finally:
            await raw.aclose()

    async def _read(self, response: httpx.Response) -> Response:
        incoming = Incoming(response)
        with ours(self._address.url):
            async for chunk in response.aiter_bytes():
                incoming.feed(chunk)
        return incoming.whole()

    async def _followed(self, response: httpx.Response, reader: Reader) -> AsyncIterator[Told]:
        headers = plain_headers(response)
        with ours(self._address.url):
            async for chunk in response.aiter_bytes():
                for told in reader.feed(chunk, headers):
                    yield told
                    if is_result(told):
                        return
        raise reader.ended()

    def _built(self, request: Request) -> httpx.Request:
        body = request.body
        return self._http.build_request(
            request.method,
            self._address.url_of(request),
            content=_pieces(body) if isinstance(body, Form) else body,
            headers=request.headers,
        )

    def __repr__(self) -> str:
        return f"<AsyncClient of {self._address.url}>"

    async def close(self) -> None:
        """Let go of the connections; sessions live on. May be called twice."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def _pieces(form: Form) -> AsyncIterator[bytes]:
    for piece in form:
        yield piece
