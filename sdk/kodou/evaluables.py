"""What an environment evaluates in code that waits."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from kodou import display, evaluation
from kodou.errors import KodouError, ValueNotSerializable
from kodou.expressions import Composition as _Composition
from kodou.expressions import Evaluable, called, source
from kodou.expressions import Expression as _Expression
from kodou.libraries import library
from kodou.messages import Item, Output, Reply
from kodou.stream import CallReader

if TYPE_CHECKING:
    from typing import Self

    from kodou.environment import Environment


class _Blocking(Evaluable):
    """What evaluates, and when.

    `value()`, `reply()`, `keep()` and `stream()` do, and so does whatever needs the value: printing, comparing, `float`,
    `int`, `bool`, `len`, `in`, iterating, `numpy.asarray`. The value is remembered, and so is what it raised;
    `keep()`, `stream()` and an expression that is made out of it run it anew. `keep()` what should be run once for several.
    """

    _scope: Environment
    _tried = False
    __hash__ = None  # type: ignore[assignment]  # as equality is that of values

    def value(self, *, timeout: float | None = None) -> Any:
        """What it evaluates to. `timeout`: seconds; None: that of the environment.

        Raises:  RemoteError: something in it raised. CallFailed: there is no value for another reason. KodouError: it was
                 refused or did not get through. TypeError: an argument cannot go to the server.
        """
        return self.reply(timeout=timeout).value

    def reply(self, *, timeout: float | None = None) -> Reply:
        """As `value`, with what was printed, the value's type and the time it took."""
        self._tried = True
        return self._scope._client.run(evaluation.evaluated(self, timeout))

    def keep(self, *, timeout: float | None = None) -> Handle:
        """Evaluate it and leave the value in the session: a handle stands for it, as an argument or to go on from.

        It is dropped once nothing refers to the handle any more, at the end of a `with`, or by `Environment.drop`.
        """
        scope, kept = self._scope._client.run(evaluation.kept(self, timeout))
        return cast(Handle, scope._handled(kept))

    def stream(self, *, timeout: float | None = None) -> Iterator[Output | Item | Reply]:
        """Evaluate it, and hear of it as it goes: `Output` it prints, each `Item` of an iterator, the `Reply` at last."""
        client = self._scope._client
        request = client.run(evaluation.streamed(self, timeout))
        return cast("Iterator[Output | Item | Reply]", client.stream(request, CallReader()))

    def __repr__(self) -> str:
        return self._shown(repr) if self._evaluates() else f"<{source(self)}>"

    def __str__(self) -> str:
        return repr(self) if self._is_function() else self._shown(str)

    def __format__(self, specification: str) -> str:
        return format(self.value(), specification) if specification else str(self)

    def _repr_html_(self) -> str | None:
        failed = self._tried and self._reply is None and not isinstance(self._failure, ValueNotSerializable)
        if failed or not self._evaluates():  # its text has raised already, and would run it once more
            return None
        try:
            return display.value_html(self.value())
        except ValueNotSerializable:
            return self._help()

    def _help(self) -> str | None:
        """What a notebook shows of what has no value."""
        return None

    def _shown(self, shown: Callable[[Any], str]) -> str:
        try:
            return shown(self.value())
        except ValueNotSerializable as exc:  # a module, a function: the server says how it looks
            return exc.repr

    def _evaluates(self) -> bool:
        """Whether there is a value to be shown, and still a session to get it from."""
        told = self._reply is not None or self._failure is not None
        return not self._is_function() and (told or self._scope._session is not None)

    def _is_function(self) -> bool:
        """It waits for arguments."""
        return isinstance(self, _Composition) and self._begin is None

    def __eq__(self, other: object) -> Any:  # arrays compare to arrays
        return self.value() == _plain(other)

    def __ne__(self, other: object) -> Any:
        return self.value() != _plain(other)

    def __lt__(self, other: Any) -> Any:
        return self.value() < _plain(other)

    def __le__(self, other: Any) -> Any:
        return self.value() <= _plain(other)

    def __gt__(self, other: Any) -> Any:
        return self.value() > _plain(other)

    def __ge__(self, other: Any) -> Any:
        return self.value() >= _plain(other)

    def __bool__(self) -> bool:
        return bool(self.value())

    def __int__(self) -> int:
        return int(self.value())

    def __index__(self) -> int:
        return operator.index(self.value())

    def __float__(self) -> float:
        return float(self.value())

    def __len__(self) -> int:
        return len(self.value())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.value())

    def __contains__(self, item: object) -> bool:
        return _plain(item) in self.value()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return library("numpy").asarray(self.value(), dtype=dtype)


class Documented:
    """The docstring of a class whose objects have that of what they name: for `help`, and `?` in a notebook."""

    def __init__(self, own: str | None) -> None:
        self._own = own

    def __get__(self, named: Expression | None, kind: type) -> str | None:
        if named is None or called(named) or named._scope._session is None:
            return self._own
        with suppress(KodouError, ValueError):
            described = named._scope.describe(named)
            return f"{described.name}{described.signature or ''}\n\n{described.doc or ''}"
        return self._own


class Expression(_Blocking, _Expression):
    """A namepath with arguments: `env.numpy.array([2, 4, 6]).sum()`. Attribute access and calls make longer ones.

    An attribute that this class has itself (`value`, `reply`, `keep`, `stream`, `attr`), or one that begins with an underscore,
    is reached through `attr("name")`. A subscript is the value's: `env.numpy.arange(10)[2:5]`.
    """

    __doc__ = Documented(__doc__)

    def _help(self) -> str | None:
        if called(self):
            return None
        with suppress(KodouError):
            return self._scope.describe(self)._repr_html_()
        return None

    def __dir__(self) -> Iterable[str]:
        return [*("attr", "keep", "reply", "stream", "value"), *([] if called(self) else self._scope._names(self))]


class Composition(_Blocking, _Composition):
    """Stages that hand a value on: `env.numpy.array | env.numpy.sum`. Called, or fed by `value | …`, it can be evaluated."""


class Handle(Expression):
    """A value that is kept in the session. `value()` gives it as it is now."""

    __doc__ = Documented(__doc__)

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


def _plain(value: Any) -> Any:
    return value.value() if isinstance(value, _Blocking) else value
