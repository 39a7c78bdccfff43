"""What is to be evaluated in an environment: built up by attribute access, calls and `|`, without asking the server.

env.numpy.array([2, 4, 6]).sum()         an expression: steps, each a name and perhaps arguments
env.numpy.array | env.numpy.sum          a composition: stages that hand a value on
"""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Union

from kodou.references import Kept
from kodou.stand_in import StandIn

if TYPE_CHECKING:
    from kodou.errors import CallFailed
    from kodou.messages import Reply
    from kodou.scope import Scope


_ATOMS = frozenset({type(None), bool, int, float, str, bytes})
# Methods that IPython calls on whatever it shows help of.
_PROBES = frozenset({"getdoc"})


@dataclass(frozen=True, eq=False)
class Step:
    """One element of a namepath: a name, or what `kept` stands for. `args` is None where it is not called."""

    name: str = ""
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    kept: Kept | None = None

    def __str__(self) -> str:
        name = self.name if self.kept is None else self.kept.name
        if self.args is None:
            return name
        given = [shown(arg) for arg in self.args]
        given += [f"{name}={shown(arg)}" for name, arg in self.kwargs.items()]
        return f"{name}({', '.join(given)})"


@dataclass(frozen=True, eq=False)
class Operation:
    """A list operation as a stage: its list is what the stage before it gives."""

    scope: Scope
    op: str
    function: Expression | str | None
    more: Mapping[str, Any]  # `initial`, `parallel`

    def __str__(self) -> str:
        return f"{self.op}({source(self.function) if isinstance(self.function, Expression) else self.function or ''})"


@dataclass(frozen=True, eq=False)
class Fed:
    """The arguments that the first stage of a composition gets."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


class Evaluable(StandIn):
    """Base of all that an environment can evaluate."""

    _scope: Scope
    _used = False
    _evaluation = "`.value()`"  # in words
    _reply: Reply | None = None
    _failure: CallFailed | None = None

    # numpy and pandas then leave `array | expression` to `__ror__` here.
    __array_ufunc__ = None
    __pandas_priority__ = 10**6

    def __or__(self, stage: Any) -> Any:
        return self._scope._composed(*_beginning(self)) | stage

    def __ror__(self, value: Any) -> Any:
        return self._scope._composed(Fed((value,)), ()) | self

    def __del__(self) -> None:
        # As Python does for a coroutine that nobody awaited: a call that was written down and never made is a mistake.
        if self._waits() and not self._used:
            said = f"{source(self)} was never evaluated; {self._evaluation} does it"
            warnings.warn(said, RuntimeWarning, stacklevel=2, source=self)

    def _waits(self) -> bool:
        """It is a call, and not just the name of something."""
        raise NotImplementedError


class Expression(Evaluable):
    """A namepath with arguments. Attribute access and calls make longer ones.

    A name that this class has itself, or one that begins with an underscore, is reached through `attr`.
    """

    _steps: tuple[Step, ...] = ()

    def __init__(self, scope: Scope, steps: tuple[Step, ...]) -> None:
        self._scope = scope
        self._steps = steps

    def attr(self, name: str) -> Any:
        """The attribute of that name; several with dots between them are one after the other."""
        use(self)
        return self._scope._expressed((*self._steps, *map(Step, name.split("."))))

    def __getattr__(self, name: str) -> Any:
        # Python and its tools ask any object for these; none of them is meant for the server.
        if name.startswith("_"):
            msg = f"{name!r} begins with an underscore: attr({name!r}) reaches what is called so in the environment"
            raise AttributeError(msg)
        return self.attr(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        use(self)
        for nested in evaluables((args, kwargs)):
            use(nested)
        *before, last = self._steps
        if last.args is not None:
            before, last = [*before, last], Step("__call__")
        return self._scope._expressed((*before, Step(last.name, args, kwargs, last.kept)))

    def __getitem__(self, key: Any) -> Any:
        return self.attr("__getitem__")(_key(self._scope, key))

    def _waits(self) -> bool:
        return bool(self._steps) and self._steps[-1].args is not None and self._steps[-1].name not in _PROBES


class Composition(Evaluable):
    """Stages that hand a value on, beginning with `begin`: arguments, or an expression; None until it is called."""

    _begin: Fed | Evaluable | None = None

    def __init__(self, scope: Scope, begin: Fed | Evaluable | None, stages: tuple[Stage, ...]) -> None:
        self._scope = scope
        self._begin = begin
        self._stages = stages

    def _waits(self) -> bool:
        return self._begin is not None

    def __or__(self, stage: Any) -> Any:
        use(self)
        if not isinstance(stage, (Expression, Composition)):
            return NotImplemented
        use(stage)
        if isinstance(stage, Composition) and stage._begin is not None:
            msg = "the right side of `|` is a function or a composition that has no arguments yet"
            raise TypeError(msg)
        more = stage._stages if isinstance(stage, Composition) else (stage,)
        return self._scope._composed(self._begin, (*self._stages, *more))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        use(self)
        if self._begin is not None:
            msg = "the composition has its arguments already"
            raise TypeError(msg)
        for nested in evaluables((args, kwargs)):
            use(nested)
        return self._scope._composed(Fed(args, kwargs), self._stages)


Stage = Union[Expression, Operation]


def called(expression: Expression) -> bool:
    return any(step.args is not None for step in expression._steps)


def handle(value: Any) -> Kept | None:
    """What an expression stands for that is a kept object, and nothing of it."""
    if isinstance(value, Expression) and len(value._steps) == 1 and value._steps[0].args is None:
        return value._steps[0].kept
    return None


def source(value: Evaluable) -> str:
    """How it was written, shortened."""
    if isinstance(value, Expression):
        return ".".join(map(str, value._steps)).replace(".__call__(", "(")
    if not isinstance(value, Composition):
        return "…"
    stages = [stage if isinstance(stage, Operation) else source(stage) for stage in value._stages]
    begin = value._begin
    if isinstance(begin, Fed):
        return f"({' | '.join(map(str, stages))}){Step('', begin.args, begin.kwargs)}"
    return " | ".join(map(str, stages if begin is None else [source(begin), *stages]))


class _Shown(reprlib.Repr):
    """Runs nothing that is not Python's own: the `repr` of an expression asks the server."""

    def repr1(self, x: Any, level: int) -> str:
        return source(x) if isinstance(x, Evaluable) else super().repr1(x, level)

    def repr_instance(self, x: Any, level: int) -> str:
        return super().repr_instance(x, level) if type(x) in _ATOMS else f"<{type(x).__name__}>"


def shown(value: Any) -> str:
    """A value in a message, shortened; an expression as it was written."""
    return _Shown().repr(value)


def evaluables(value: Any) -> Iterator[Evaluable]:
    """Those in a value, in their order; not what is inside them. A value that holds itself is left for `Arguments` to refuse."""
    levels: list[tuple[int, Iterator[Any]]] = [(0, iter((value,)))]
    within: set[int] = set()  # identities of what is being looked at
    while levels:
        inside, items = levels[-1]
        for item in items:
            if isinstance(item, Evaluable):
                yield item
            elif isinstance(item, (list, tuple, dict)) and id(item) not in within:
                inner = item.values() if isinstance(item, dict) else item
                if not _ATOMS.issuperset(map(type, inner)):
                    within.add(id(item))
                    levels.append((id(item), iter(inner)))
                    break
        else:
            levels.pop()
            within.discard(inside)


def use(value: Evaluable) -> None:
    value._used = True


def _beginning(value: Evaluable) -> tuple[Fed | Evaluable | None, tuple[Stage, ...]]:
    """A composition of this alone: a function that waits for arguments, or a value that is there."""
    use(value)
    if isinstance(value, Composition):
        return value._begin, value._stages
    if isinstance(value, Expression) and not called(value) and handle(value) is None:
        return None, (value,)
    return value, ()


def _key(scope: Scope, key: Any) -> Any:
    """A subscript as an argument: JSON has neither slices nor tuples, so these are made in the environment."""
    if isinstance(key, slice):
        return scope["builtins.slice"](key.start, key.stop, key.step)
    if isinstance(key, tuple):
        return scope["builtins.tuple"]([_key(scope, part) for part in key])
    return scope["builtins.Ellipsis"] if key is ... else key
