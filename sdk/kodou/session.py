"""A session: a client's hold on one sandbox."""

from __future__ import annotations

import html
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kodou import display, protocol
from kodou.arguments import Arguments
from kodou.errors import KodouError
from kodou.evaluation import Talk, performed
from kodou.expressions import Evaluable, handle, use
from kodou.messages import EnvironmentInfo, Reply, Request
from kodou.protocol import Namepath
from kodou.references import References
from kodou.replies import accepted

if TYPE_CHECKING:
    from typing import Self

    from kodou.aio import AsyncClient
    from kodou.client import Client


class _Held:
    """What both kinds of session know. `environment` and `expires` are None for one that was taken up by its id."""

    def __init__(self, id: str, environment: EnvironmentInfo | None = None, expires: datetime | None = None) -> None:
        self.id = id
        self.environment = environment
        self.expires = expires
        self.references = References()

    def _call(
        self, namepath: Namepath, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float | None
    ) -> Talk[Reply]:
        def request(drop: list[str]) -> Request:
            arguments = Arguments(self._reference)
            members: dict[str, Any] = {"sessionid": self.id, **protocol.timeout_member(timeout)}
            members["namepath"] = arguments.encode(namepath, ("namepath",))
            members["args"] = arguments.items(args, ("args",))
            if kwargs:
                members["kwargs"] = {name: arguments.encode(value, (name,)) for name, value in kwargs.items()}
            if drop:
                members["drop"] = drop
            return Request("POST", protocol.call_path("python"), arguments.body(members), accepted())

        return performed(self.references, request)

    @property
    def _environment_id(self) -> str:
        if self.environment is None:
            msg = "a session that was taken up by its id does not know its environment: ask `Client.lock`"
            raise RuntimeError(msg)
        return self.environment.id

    def _reference(self, value: Any) -> str | None:
        if not isinstance(value, Evaluable):
            return None
        kept = handle(value)
        if kept is None:
            use(value)
            msg = "an expression among the arguments: pass its `value()`, or `keep()` it and pass the handle"
            raise TypeError(msg)
        return kept.name_in(self.references)

    def __repr__(self) -> str:
        # The id is a token: whoever reads it in a log could call with it.
        return f"<{type(self).__name__} of {self.environment.id if self.environment else 'an environment'}>"

    def _repr_html_(self) -> str:
        return display.info_html(self.environment) if self.environment else html.escape(repr(self))


class Session(_Held):
    """Calls run one at a time, in order of arrival. As a context manager it is closed at the end."""

    def __init__(
        self, client: Client, id: str, environment: EnvironmentInfo | None = None, expires: datetime | None = None
    ) -> None:
        super().__init__(id, environment, expires)
        self._client = client

    def call(self, namepath: Namepath, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """The value of a namepath, called with `args` and `kwargs` if it is callable.

        Args:    namepath: `"math.sqrt"`, or a list of names and of `step(name, …)` for calls on the way.
                 timeout: seconds; None leaves it to the server. A function that has a parameter of this name is
                 reached through `function`.
        Raises:  RemoteError: the function raised. CallFailed: there is no value for another reason.
                 KodouError: the call was refused or did not get through.
        """
        return self.reply(namepath, *args, timeout=timeout, **kwargs).value

    def reply(self, namepath: Namepath, *args: Any, timeout: float | None = None, **kwargs: Any) -> Reply:
        """As `call`, with what the call printed, the value's type and the time it took."""
        return self._client.run(self._call(namepath, args, kwargs, timeout))

    def function(self, namepath: Namepath, *, timeout: float | None = None) -> Function:
        """A callable that stands for the remote one: `norm = session.function("numpy.linalg.norm")`."""
        return Function(self, namepath, timeout)

    def lock(self) -> Any:
        """See `Client.lock`. Raises RuntimeError: it was taken up by its id."""
        return self._client.lock(self._environment_id)

    def close(self) -> None:
        """End it and its sandbox. May be called twice."""
        protocol.read_closed(self._client.send(protocol.close_request(self.id)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(KodouError) if raised else nullcontext():  # what went wrong first is what the caller has to see
            self.close()


class Function:
    """A function of a session; every call of it is one request."""

    def __init__(self, session: Session, namepath: Namepath, timeout: float | None) -> None:
        self._session = session
        self._namepath = namepath
        self._timeout = timeout

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        talk = self._session._call(self._namepath, args, kwargs, self._timeout)
        return self._session._client.run(talk).value

    def __repr__(self) -> str:
        return f"<Function {self._namepath!r}>"


class AsyncSession(_Held):
    """As `Session`, for asyncio and trio."""

    def __init__(
        self, client: AsyncClient, id: str, environment: EnvironmentInfo | None = None, expires: datetime | None = None
    ) -> None:
        super().__init__(id, environment, expires)
        self._client = client

    async def call(self, namepath: Namepath, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        """See `Session.call`. The timeout is the server's: it ends what the call started."""
        return (await self.reply(namepath, *args, timeout=timeout, **kwargs)).value

    async def reply(self, namepath: Namepath, *args: Any, timeout: float | None = None, **kwargs: Any) -> Reply:
        """See `Session.reply`."""
        return await self._client.run(self._call(namepath, args, kwargs, timeout))

    def function(self, namepath: Namepath, *, timeout: float | None = None) -> AsyncFunction:
        """See `Session.function`; what it returns is awaited."""
        return AsyncFunction(self, namepath, timeout)

    async def lock(self) -> Any:
        """See `Session.lock`."""
        return await self._client.lock(self._environment_id)

    async def close(self) -> None:
        """End it and its sandbox. May be called twice."""
        protocol.read_closed(await self._client.send(protocol.close_request(self.id)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(KodouError) if raised else nullcontext():
            await self.close()


class AsyncFunction:
    """A function of a session; every call of it is one request."""

    def __init__(self, session: AsyncSession, namepath: Namepath, timeout: float | None) -> None:
        self._session = session
        self._namepath = namepath
        self._timeout = timeout

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        talk = self._session._call(self._namepath, args, kwargs, self._timeout)
        return (await self._session._client.run(talk)).value

    def __repr__(self) -> str:
        return f"<AsyncFunction {self._namepath!r}>"
