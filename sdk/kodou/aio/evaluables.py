"""What an environment evaluates in async code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, cast

from kodou import display, evaluation
from kodou.expressions import Composition as _Composition
from kodou.expressions import Evaluable, source
from kodou.expressions import Expression as _Expression
from kodou.messages import Item, Output, Reply
from kodou.stream import CallReader

if TYPE_CHECKING:
    from typing import Self

    from kodou.aio.environment import Environment


def _unawaited(self: Any, *_: object) -> NoReturn:
    msg = f"{source(self)} has no value yet: `await` it"
    raise TypeError(msg)


class _Awaited(Evaluable):
    """What an evaluable does in async code: nothing until it is awaited."""

    _scope: Environment
    _evaluation = "`await`"

    async def value(self, *, timeout: float | None = None) -> Any:
        """See `kodou.Expression.value`. `await expression` is the same."""
        return (await self.reply(timeout=timeout)).value

    async def reply(self, *, timeout: float | None = None) -> Reply:
        return await self._scope._client.run(evaluation.evaluated(self, timeout))

    async def keep(self, *, timeout: float | None = None) -> Handle:
        """See `kodou.Expression.keep`."""
        scope, kept = await self._scope._client.run(evaluation.kept(self, timeout))
        return cast(Handle, scope._handled(kept))

    async def stream(self, *, timeout: float | None = None) -> AsyncIterator[Output | Item | Reply]:
        """See `kodou.Expression.stream`."""
        client = self._scope._client
        request = await client.run(evaluation.streamed(self, timeout))
        async for told in client.stream(request, CallReader()):
            yield told  # type: ignore[misc]

    def __await__(self) -> Generator[Any, None, Any]:
        return self.value().__await__()

    # Python would else iterate by subscripts, which never end, take it for true, and compare it by identity.
    __iter__ = None
    __contains__ = None
    __bool__ = __eq__ = __ne__ = __array__ = _unawaited
    __hash__ = Evaluable.__hash__  # `asyncio.gather` needs it

    def __repr__(self) -> str:
        return f"<{source(self)}>"


class Expression(_Awaited, _Expression):
    """See `kodou.Expression`; evaluated by `await`, and by nothing else."""


class Composition(_Awaited, _Composition):
    """See `kodou.Composition`."""


class Handle(Expression):
    """See `kodou.Handle`."""

    def __repr__(self) -> str:
        return display.handle(self)

    def _repr_html_(self) -> str:
        return display.handle_html(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._scope.drop(self)
