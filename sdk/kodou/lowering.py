"""Expressions -> requests: which namepaths and stages they come to. No I/O, and nothing of the wire but its JSON.

An expression evaluates as it would in Python: what is called in it is called, and nothing else is. The protocol calls the
last element of a namepath if it can be called, so a bare name is asked for by `pkgutil.resolve_name`, an attribute at the
end by `operator.attrgetter`.

An expression that is the last argument of a call is a stage before it, so both are one request. Any other that stands
among arguments is kept in the session first, by a request of its own (`evaluation.py`); one that stands there twice, once.
"""

from __future__ import annotations

import builtins
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kodou.expressions import (
    Composition,
    Evaluable,
    Expression,
    Fed,
    Operation,
    Step,
    called,
    evaluables,
    handle,
    source,
)

if TYPE_CHECKING:
    from kodou.scope import Scope


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline, in the session of its scope."""

    scope: Scope
    what: tuple[Step, ...] | Operation

    def arguments(self) -> Iterator[Any]:
        """What it has to be given, besides what comes from the stage before it."""
        if isinstance(self.what, Operation):
            yield self.what.more
            if isinstance(self.what.function, Expression):
                yield from _arguments(self.what.function._steps)
        else:
            yield from _arguments(self.what)


@dataclass(frozen=True)
class Plan:
    """What is to be run: the arguments of the first stage, and the stages."""

    fed: Fed
    stages: tuple[Stage, ...]

    def nested(self) -> Iterator[Evaluable]:
        """The expressions among the arguments that have to be kept first. Raises ValueError: in another session."""
        given = [(self.stages[0].scope, [self.fed.args, self.fed.kwargs])]
        given += [(stage.scope, list(stage.arguments())) for stage in self.stages]
        for scope, arguments in given:
            for value in evaluables(arguments):
                if handle(value) is None:
                    _check_scope(value, scope)
                    yield value


def _check_scope(value: Evaluable, scope: Scope) -> None:
    if lowered(value).stages[-1].scope is not scope:
        msg = f"{source(value)} belongs to another environment: pass its value, or pipe it there with `|`"
        raise ValueError(msg)


def shared(value: Evaluable) -> frozenset[int]:
    """Identities of the expressions that occur more than once among the arguments in it, however deep."""
    counts: Counter[int] = Counter()
    waiting = [value]
    while waiting:
        for nested in evaluables(_given(waiting.pop())):
            counts[id(nested)] += 1
            if counts[id(nested)] == 1:
                waiting.append(nested)
    return frozenset(id for id, count in counts.items() if count > 1)


def _given(value: Evaluable) -> list[Any]:
    """All arguments in it."""
    if isinstance(value, Expression):
        return list(_arguments(value._steps))
    assert isinstance(value, Composition)  # noqa: S101  there is no third kind
    begin = value._begin
    first = [begin.args, begin.kwargs] if isinstance(begin, Fed) else [begin]
    return [*first, *(list(_stage(stage).arguments()) for stage in value._stages)]


def lowered(value: Evaluable, apart: frozenset[int] = frozenset()) -> Plan:
    """How it is run. Arguments in `apart` are not made stages.

    Raises:  TypeError: a composition that has no arguments yet.
    """
    if isinstance(value, Expression):
        return Plan(Fed(()), tuple(_expression(value, apart)))
    assert isinstance(value, Composition)  # noqa: S101  there is no third kind
    begin = value._begin
    if begin is None:
        msg = "the composition is a function: call it, or feed it with `value | …`"
        raise TypeError(msg)
    first = Plan(begin, ()) if isinstance(begin, Fed) else lowered(begin, apart)
    return Plan(first.fed, (*first.stages, *map(_stage, value._stages)))


def _stage(stage: Expression | Operation) -> Stage:
    return Stage(stage._scope, stage._steps) if isinstance(stage, Expression) else Stage(stage.scope, stage)


def _expression(value: Expression, apart: frozenset[int]) -> Iterator[Stage]:
    scope, steps = value._scope, value._steps
    piped = max((i for i, step in enumerate(steps) if step.args and _pipeable(step.args[-1], apart)), default=None)
    if piped is not None:
        step = steps[piped]
        assert step.args  # noqa: S101  see above
        yield from lowered(step.args[-1], apart).stages
        yield Stage(scope, (*steps[:piped], Step(step.name, step.args[:-1], step.kwargs, step.kept)))
        yield from _onward(scope, steps[piped + 1 :])
    elif called(value):
        end = max(i for i, step in enumerate(steps) if step.args is not None) + 1
        yield Stage(scope, steps[:end])
        yield from _onward(scope, steps[end:])
    else:
        yield Stage(scope, _reference(value))


def _pipeable(arg: Any, apart: frozenset[int]) -> bool:
    """Whether its value may come from a stage before, which has no arguments but its own."""
    if not isinstance(arg, Evaluable) or id(arg) in apart or handle(arg) is not None:
        return False
    return isinstance(arg, Expression) or (arg._begin is not None and not isinstance(arg._begin, Fed))  # type: ignore[attr-defined]


def _reference(value: Expression) -> tuple[Step, ...]:
    """A call that gives what is named, without calling that."""
    first, *rest = value._steps
    if first.kept is None:
        # As the protocol does it, a name is a module's first, and a builtin's else.
        names = [*(["builtins"] if hasattr(builtins, first.name) else []), *(step.name for step in value._steps)]
        return Step("pkgutil"), Step("resolve_name", (".".join(names),))
    kept = value._scope._expressed((first,))
    if not rest:
        return Step("operator"), Step("getitem", ([kept], 0))
    return *_attributes([step.name for step in rest]), Step("__call__", (kept,))


def _onward(scope: Scope, steps: Sequence[Step]) -> Iterator[Stage]:
    """Stages that do with the value of the one before them what the steps say."""
    names: list[str] = []
    for step in steps:
        if step.args is None:
            names.append(step.name)
            continue
        if names:
            yield Stage(scope, (*_attributes(names), Step("__call__")))
        caller = Step("methodcaller", (step.name, *step.args), step.kwargs)
        yield Stage(scope, (Step("operator"), caller, Step("__call__")))
        names = []
    if names:
        yield Stage(scope, (*_attributes(names), Step("__call__")))


def _attributes(names: Sequence[str]) -> tuple[Step, Step]:
    return Step("operator"), Step("attrgetter", (".".join(names),))


def _arguments(steps: Sequence[Step]) -> Iterator[Any]:
    for step in steps:
        yield step.args or ()
        yield step.kwargs
