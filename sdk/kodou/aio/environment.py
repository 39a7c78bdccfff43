"""An environment to work in, for asyncio and trio."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kodou import display
from kodou.aio.client import AsyncClient
from kodou.aio.evaluables import Composition, Expression, Handle
from kodou.discovery import Description, describe_request, read_description
from kodou.errors import KodouError
from kodou.messages import Progress
from kodou.progress import following
from kodou.references import References
from kodou.retries import RETRIES
from kodou.scope import Scope
from kodou.session import AsyncSession

if TYPE_CHECKING:
    from typing import Self


class Environment(Scope):
    """See `kodou.Environment`: `async with`, and what is built up is awaited."""

    _expression_class = Expression
    _composition_class = Composition
    _handle_class = Handle

    def __init__(
        self,
        dependencies: Iterable[str] = (),
        version: str | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        client: AsyncClient | None = None,
        timeout: float | None = None,
        progress: Callable[[Progress], object] | None = None,
        retries: int = RETRIES,
        **options: Any,
    ) -> None:
        self._client = client or AsyncClient(url, token, retries=retries)
        self._owns_client = client is None
        self._dependencies = dependencies if isinstance(dependencies, str) else tuple(dependencies)
        self._version = version
        self._timeout_s = timeout
        self._progress = progress
        self._options = options
        self._session: AsyncSession | None = None
        self._closed = False

    async def open(self) -> Self:
        """See `kodou.Environment.open`."""
        if self._closed:
            raise RuntimeError(display.CLOSED)
        if self._session is None:
            with following(self._progress) as progress:
                self._session = await self._client.setup(
                    self._dependencies, self._version, progress=progress, **self._options
                )
        return self

    async def close(self) -> None:
        """See `kodou.Environment.close`."""
        session, self._session = self._session, None
        self._closed = True
        try:
            if session is not None:
                await session.close()
        finally:
            if self._owns_client:
                await self._client.close()

    @property
    def session(self) -> AsyncSession:
        """Raises RuntimeError: it is not open."""
        return display.opened(self._session, closed=self._closed)

    async def describe(self, target: Expression | str | None = None, *, prefix: str = "") -> Description:
        """See `kodou.Environment.describe`."""
        return read_description(await self._client.send(describe_request(self, target, prefix)))

    @property
    def _session_id(self) -> str:
        return self.session.id

    @property
    def _references(self) -> References:
        return self.session.references

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(KodouError) if raised else nullcontext():
            await self.close()

    def __repr__(self) -> str:
        return display.environment(self._dependencies, self._session, closed=self._closed)

    def _repr_html_(self) -> str:
        return display.environment_html(self._dependencies, self._session, closed=self._closed)
