"""The names of an environment: where expressions begin."""

from __future__ import annotations

from typing import Any, ClassVar

from kodou.expressions import Composition, Evaluable, Expression, Fed, Operation, Stage, Step, handle, shown, use
from kodou.references import Kept, References
from kodou.stand_in import StandIn


class _Nothing:
    def __repr__(self) -> str:
        return "..."  # as help shows it


_NOTHING: Any = _Nothing()
_FUNCTION_OPTIONAL = frozenset({"sort", "any", "all"})


class Scope(StandIn):
    """What both kinds of `Environment` share: building expressions, which asks the server nothing.

    A name that this class has itself, or one that begins with an underscore, is reached by a subscript: `env["map"]`.
    """

    _expression_class: ClassVar[type[Expression]] = Expression
    _composition_class: ClassVar[type[Composition]] = Composition
    _handle_class: ClassVar[type[Expression]] = Expression
    _language = "python"
    _timeout_s: float | None = None

    @property
    def _session_id(self) -> str:
        raise NotImplementedError

    @property
    def _references(self) -> References:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            msg = f"{name!r} begins with an underscore: env[{name!r}] reaches what is called so in the environment"
            raise AttributeError(msg)
        return self._expressed((Step(name),))

    def __getitem__(self, name: str) -> Any:
        """What a name stands for; several with dots between them are one after the other."""
        if not isinstance(name, str):
            msg = f"a name is a string, not {shown(name)}"
            raise TypeError(msg)
        return self._expressed(tuple(map(Step, name.split("."))))

    def map(self, function: Any, items: Any = _NOTHING, *, parallel: int | None = None) -> Any:
        """`function` of each item, as a list. `parallel`: over how many sandboxes.

        Args:    function: of this environment: an expression that is not called, or with its first arguments; or a
                 dotted name. items: values or an expression; without them it is a stage for `|`.
        """
        return self._operation("map", function, items, parallel=parallel)

    def starmap(self, function: Any, items: Any = _NOTHING, *, parallel: int | None = None) -> Any:
        """As `map`, where each item is a list of arguments."""
        return self._operation("starmap", function, items, parallel=parallel)

    def flatmap(self, function: Any, items: Any = _NOTHING, *, parallel: int | None = None) -> Any:
        """As `map`, where the function gives lists, which are put together."""
        return self._operation("flatmap", function, items, parallel=parallel)

    def filter(self, function: Any, items: Any = _NOTHING, *, parallel: int | None = None) -> Any:
        """The items for which `function` is true."""
        return self._operation("filter", function, items, parallel=parallel)

    def reduce(self, function: Any, items: Any = _NOTHING, *, initial: Any = _NOTHING) -> Any:
        """`function` of what came before and the next item, from the first on."""
        return self._operation("reduce", function, items, **({} if initial is _NOTHING else {"initial": initial}))

    def sort(self, function: Any = None, items: Any = _NOTHING) -> Any:
        """The items in the order of what `function` gives for them; None: of themselves."""
        return self._operation("sort", function, items)

    def any(self, function: Any = None, items: Any = _NOTHING) -> Any:
        """Whether `function` is true for an item; None: whether one is true."""
        return self._operation("any", function, items)

    def all(self, function: Any = None, items: Any = _NOTHING) -> Any:
        """Whether `function` is true for every item; None: whether all are true."""
        return self._operation("all", function, items)

    def drop(self, kept: Expression) -> None:
        """Have what a handle stands for dropped with the next request. May be called twice. Raises TypeError."""
        found = handle(kept)
        if found is None:
            msg = f"only a handle can be dropped, which `keep()` gives; not {shown(kept)}"
            raise TypeError(msg)
        found.drop()

    def _operation(self, op: str, function: Any, items: Any, **more: Any) -> Any:
        if isinstance(function, Expression):
            use(function)
        elif not isinstance(function, str) and (function is not None or op not in _FUNCTION_OPTIONAL):
            msg = f"the function of {op} is one of the environment, or a dotted name; not {shown(function)}"
            raise TypeError(msg)
        named = {name: value for name, value in more.items() if name == "initial" or value is not None}
        stage = Operation(self, op, function, named)
        if items is _NOTHING:
            return self._composed(None, (stage,))
        if isinstance(items, Evaluable):
            use(items)
        return self._composed(items if isinstance(items, Evaluable) else Fed((items,)), (stage,))

    def _expressed(self, steps: tuple[Step, ...]) -> Any:
        return self._expression_class(self, steps)

    def _composed(self, begin: Fed | Evaluable | None, stages: tuple[Stage, ...]) -> Any:
        return self._composition_class(self, begin, stages)

    def _handled(self, kept: Kept) -> Any:
        return self._handle_class(self, (Step(kept=kept),))
