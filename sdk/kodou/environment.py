"""An environment to work in: a session whose names are attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kodou import display
from kodou.client import Client
from kodou.discovery import Description, describe_request, read_description
from kodou.errors import KodouError
from kodou.evaluables import Composition, Expression, Handle
from kodou.expressions import Expression as _Expression
from kodou.messages import Progress
from kodou.progress import following
from kodou.references import References
from kodou.retries import RETRIES
from kodou.scope import Scope
from kodou.session import Session

if TYPE_CHECKING:
    from typing import Self


class Environment(Scope):
    """A session on an environment with these dependencies, whose names are attributes.

        with kodou.Environment(["numpy"]) as env:          # KODOU_URL, KODOU_TOKEN
            print(env.numpy.array([2, 4, 6]).sum())        # one request

    Args:    dependencies, version, options: see `Client.setup`. url, token, retries: see `Client`.
             client: in place of these three; it is left open. timeout: seconds for each call.
             progress: called with each step of a build; None: a line on standard error, if that is a terminal.
    Raises:  what `Client` raises; the session is made by `with` or `open`.
    """

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
        client: Client | None = None,
        timeout: float | None = None,
        progress: Callable[[Progress], object] | None = None,
        retries: int = RETRIES,
        **options: Any,
    ) -> None:
        self._client = client or Client(url, token, retries=retries)
        self._owns_client = client is None
        self._dependencies = dependencies if isinstance(dependencies, str) else tuple(dependencies)
        self._version = version
        self._timeout_s = timeout
        self._progress = progress
        self._options = options
        self._session: Session | None = None
        self._closed = False

    def open(self) -> Self:
        """Set it up; for where `with` does not fit, as in a notebook. Once: what is closed stays so.

        Raises:  RuntimeError: it was closed. And as `Client.setup`.
        """
        if self._closed:
            raise RuntimeError(display.CLOSED)
        if self._session is None:
            with following(self._progress) as progress:
                self._session = self._client.setup(
                    self._dependencies, self._version, progress=progress, **self._options
                )
        return self

    def close(self) -> None:
        """End the session, and all that is kept in it. May be called twice."""
        session, self._session = self._session, None
        self._closed = True
        try:
            if session is not None:
                session.close()
        finally:
            if self._owns_client:
                self._client.close()

    @property
    def session(self) -> Session:
        """Raises RuntimeError: it is not open."""
        return display.opened(self._session, closed=self._closed)

    def describe(self, target: _Expression | str | None = None, *, prefix: str = "") -> Description:
        """What a name offers, found out without running it; None: the names there are.

        Args:    target: an expression that calls nothing, or a dotted name. prefix: of the members that are wanted.
        Raises:  NameNotFound, AttributeNotFound, …: see `kodou.errors`.
        """
        return read_description(self._client.send(describe_request(self, target, prefix)))

    @property
    def _session_id(self) -> str:
        return self.session.id

    @property
    def _references(self) -> References:
        return self.session.references

    def _names(self, target: _Expression | None) -> list[str]:
        """For completion, where an error would only be in the way."""
        if self._session is None:
            return []
        with suppress(KodouError, ValueError):
            return [member.name for member in self.describe(target).members]
        return []

    def __dir__(self) -> Iterable[str]:
        return [*(name for name in super().__dir__() if not name.startswith("_")), *self._names(None)]

    def _ipython_key_completions_(self) -> list[str]:
        return self._names(None)

    def __enter__(self) -> Self:
        try:
            return self.open()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(KodouError) if raised else nullcontext():  # what went wrong first is what the caller has to see
            self.close()

    def __repr__(self) -> str:
        return display.environment(self._dependencies, self._session, closed=self._closed)

    def _repr_html_(self) -> str:
        return display.environment_html(self._dependencies, self._session, closed=self._closed)
