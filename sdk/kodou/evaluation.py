"""The conversation that evaluates an expression, without any I/O: yields requests, is sent their responses."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from kodou.arguments import Arguments
from kodou.errors import CallFailed, ReferenceNotFound, RemoteError, ValueNotSerializable
from kodou.expressions import Evaluable, Expression, Operation, Step, handle, use
from kodou.lowering import Plan, Stage, lowered, shared
from kodou.messages import EVENT_STREAM, JSON, Reply, Request, Response
from kodou.protocol import call_path, timeout_member
from kodou.references import Kept, References
from kodou.replies import accepted, read_value

if TYPE_CHECKING:
    from kodou.scope import Scope

T = TypeVar("T")
Talk = Generator[Request, Response, T]

COMPOSE_PATH = "/kompose"


def evaluated(value: Evaluable, timeout_s: float | None = None) -> Talk[Reply]:
    """The reply with the value. It is remembered, and so is what was raised; but what is kept may change.

    Raises:  what `read_value` does; ValueError, TypeError: see `lowering`, `Arguments`.
    """
    if value._failure is not None:
        raise value._failure.again()
    if value._reply is not None:
        return value._reply
    written = yield from _written(value, timeout_s)
    try:
        reply = yield from performed(written.references, written.request)
    except (RemoteError, ValueNotSerializable) as exc:  # it was run to its end; another time may be too often
        if handle(value) is None:
            value._failure = exc.again()
        raise
    if handle(value) is None:
        value._reply = reply
    return reply


def kept(value: Evaluable, timeout_s: float | None = None) -> Talk[tuple[Scope, Kept]]:
    """What stands for the value, which stays in the session, and the scope it is kept in."""
    return (yield from _kept((yield from _written(value, timeout_s))))


def streamed(value: Evaluable, timeout_s: float | None = None) -> Talk[Request]:
    """The request whose response tells all as it comes."""
    written = yield from _written(value, timeout_s)
    return written.request([], accept=EVENT_STREAM)


def performed(references: References, request: Callable[[list[str]], Request]) -> Talk[Reply]:
    """One call, which takes along the names that are to be dropped."""
    drop = references.take()
    try:
        return read_value((yield request(drop)))
    except CallFailed:
        raise  # it was run, and they are dropped
    except ReferenceNotFound as exc:
        if drop and (exc.field or "").startswith("drop"):
            # They are gone already, as after a restart: nothing was run.
            return read_value((yield request([])))
        references.restore(drop)
        raise
    except BaseException:  # also where the caller gives up
        references.restore(drop)
        raise


def _written(value: Evaluable, timeout_s: float | None) -> Talk[_Written]:
    """The value as a request, once all is kept that it needs."""
    use(value)
    return (yield from _prepared(value, timeout_s, shared(value), {}))


def _prepared(
    value: Evaluable, timeout_s: float | None, apart: frozenset[int], names: dict[int, Kept]
) -> Talk[_Written]:
    plan = lowered(value, apart)
    for nested in list(plan.nested()):
        if id(nested) not in names:
            _, names[id(nested)] = yield from _kept((yield from _prepared(nested, timeout_s, apart, names)))
    return _Written(plan, names, timeout_s)


def _kept(written: _Written) -> Talk[tuple[Scope, Kept]]:
    reply = yield from performed(written.references, lambda drop: written.request(drop, keep=True))
    scope = written.plan.stages[-1].scope
    return scope, scope._references.kept(reply.value)


class _Written:
    """A plan as the body of a request. `names`: what stands for the expressions in it, by their identity."""

    def __init__(self, plan: Plan, names: Mapping[int, Kept], timeout_s: float | None) -> None:
        self.plan = plan
        self._names = names
        self._timeout = timeout_member(timeout_s if timeout_s is not None else plan.stages[0].scope._timeout_s)

    @property
    def references(self) -> References:
        return self.plan.stages[0].scope._references

    def request(self, drop: list[str], *, keep: bool = False, accept: str | None = None) -> Request:
        fed, stages = self.plan.fed, self.plan.stages
        writer = _Writer(self._names)
        first = stages[0].scope
        members: dict[str, Any] = dict(self._timeout)
        if len(stages) == 1 and not isinstance(stages[0].what, Operation):
            path = call_path(first._language)
            members.update(sessionid=first._session_id, namepath=writer.namepath(first, stages[0].what))
        else:
            path = COMPOSE_PATH
            members.update(session=first._session_id, **self._composed(writer))
        writer.scope = first
        if fed.args or path == COMPOSE_PATH:
            members["args"] = writer.arguments.items(fed.args, ("args",))
        if fed.kwargs:
            members["kwargs"] = writer.members(fed.kwargs, "kwargs")
        if keep:
            members["keep"] = True
        if drop:
            members["drop"] = drop
        return Request("POST", path, writer.arguments.body(members), accept or (JSON if keep else accepted()))

    def _composed(self, writer: _Writer) -> dict[str, Any]:
        pipes = [(scope, list(stages)) for scope, stages in groupby(self.plan.stages, key=lambda stage: stage.scope)]
        written = [[writer.stage(stage) for stage in stages] for _, stages in pipes]
        if len(pipes) == 1:
            return {"pipeline": written[0]}
        sessions = [scope._session_id for scope, _ in pipes]
        return {"pipes": [{"session": id, "pipeline": stages} for id, stages in zip(sessions, written)]}


class _Writer:
    """Writes namepaths, each with the arguments of its own session."""

    def __init__(self, names: Mapping[int, Kept]) -> None:
        self.scope: Scope | None = None  # whose session the arguments are for
        self.arguments = Arguments(self._reference)
        self._names = names

    def stage(self, stage: Stage) -> Any:
        if not isinstance(stage.what, Operation):
            return self.namepath(stage.scope, stage.what)
        what, self.scope = stage.what, stage.scope
        written: dict[str, Any] = {"op": what.op}
        if isinstance(what.function, Expression):
            written["function"] = self.namepath(stage.scope, what.function._steps)
        elif what.function is not None:
            written["function"] = what.function
        return {"listop": {**written, **self.members(what.more, what.op)}}

    def namepath(self, scope: Scope, steps: tuple[Step, ...]) -> list[Any]:
        self.scope = scope
        return [self._element(step) for step in steps]

    def members(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        return {name: self.arguments.encode(value, (where, name)) for name, value in values.items()}

    def _element(self, step: Step) -> Any:
        if step.kept is None and step.args is None:
            return step.name
        element: dict[str, Any] = {"name": step.name} if step.kept is None else {"ref": self._name(step.kept)}
        if step.args is not None:
            element["args"] = self.arguments.items(step.args, (step.name,))
        if step.kwargs:
            element["kwargs"] = self.members(step.kwargs, step.name)
        return element

    def _reference(self, value: Any) -> str | None:
        if not isinstance(value, Evaluable):
            return None
        kept = handle(value)
        return self._name(self._names[id(value)] if kept is None else kept)

    def _name(self, kept: Kept) -> str:
        assert self.scope is not None  # noqa: S101  set before any argument is written
        return kept.name_in(self.scope._references)
