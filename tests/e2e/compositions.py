"""Random compositions: pipelines, pipes and list operations, and what the same comes to in this process."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from hypothesis import assume, reject
from hypothesis import strategies as st

from tests.e2e.expressions import Arguments, Path, Step, argument, attempted, escaped, group, spelt
from tests.e2e.library import FUNCTIONS, KINDS, Draw, Names, kind_of, shapes_before
from tests.e2e.outcomes import (
    Formless,
    Json,
    NoValue,
    Outcome,
    Quiet,
    Raised,
    Unordered,
    crossed,
    named,
    outcome,
    raised,
    type_name,
)

_MOST_STAGES = 5
_LOOKS = 6  # at functions, for one that takes what there is
# Of what a list operation gives its function: two, or what an item holds.
_OF_TWO = [
    ("operator", "add"), ("operator", "mul"), ("operator", "sub"), ("operator", "floordiv"), ("operator", "concat"), ("max",),
    ("min",), ("divmod",), ("math", "hypot"), ("math", "gcd"), ("operator", "or_"), ("numpy", "add"), ("numpy", "maximum"),
    ("operator", "lt"), ("itertools", "chain"), ("os", "path", "join"), ("fractions", "Fraction"), ("range",),
]  # fmt: skip
_SPREAD = ("map", "filter", "flatmap", "starmap")  # what `parallel` is for
_OPERATIONS = (*_SPREAD, "reduce", "sort", "any", "all")
# What makes items of a list, by what they are in JSON.
_CONSTRUCTORS: dict[str, list[Names]] = {
    "ints": [("fractions", "Fraction"), ("decimal", "Decimal"), ("float",), ("numpy", "int64"), ("str",), ("range",)],
    "texts": [("len",), ("str", "upper"), ("collections", "Counter"), ("pathlib", "PurePosixPath"), ("int",)],
    "numerals": [("int",), ("float",), ("fractions", "Fraction"), ("decimal", "Decimal"), ("numpy", "float32")],
    "rows": [("numpy", "array"), ("tuple",), ("list",), ("sum",), ("numpy", "mean")],
}
_numerals = st.lists(KINDS["numeral"].json, max_size=4)


@dataclass(frozen=True)
class Composition:
    """`place`: where it failed, of `pipe`, `stage` and `item` those that apply."""

    members: dict[str, Json]
    outcome: Outcome
    place: dict[str, int] = field(default_factory=dict)


class Failed(Exception):
    """At this item of a list operation."""

    def __init__(self, exc: Exception, item: int) -> None:
        super().__init__(exc, item)
        self.exc, self.item = exc, item


# --- stages ---


@dataclass(frozen=True)
class Function:
    """A function with arguments of its own, which come first."""

    names: Names
    own: Arguments = field(default_factory=Arguments)

    def made(self) -> Callable[..., Any]:
        """Its own arguments are made once, however often it is called."""
        return self.own.call(lambda *own, **by_name: partial(named(self.names), *own, **by_name))

    def run(self, *args: Any) -> Any:
        return self.made()(*args)

    def spelt(self, draw: Draw) -> Json:
        path = Path(self.names[:-1] or ("builtins",), (Step(self.names[-1], self.own),))
        return spelt(draw, path, with_request=False)[0]["namepath"]


@dataclass(frozen=True)
class Listed:
    """A list operation; `given` is its list where that is not what is piped."""

    op: str
    function: Function | None
    given: tuple[Json, Names] | None = None  # with what makes its items; () as they are
    initial: tuple[Json, ...] = ()
    parallel: int = 1

    def spelt(self, draw: Draw) -> dict[str, Json]:
        members: dict[str, Json] = {"op": self.op}
        if self.function is not None:
            members["function"] = self.function.spelt(draw)
        if self.given is not None:
            items, constructor = self.given
            members["list"] = [*escaped(items), *([list(constructor)] if constructor else [])]
        if self.initial:
            members["initial"] = escaped(self.initial[0])
        if self.parallel > 1:
            members["parallel"] = self.parallel
        return members

    def run(self, *piped: Any) -> Any:
        """Raises Failed, and what is raised for no single item."""
        if self.given is None:
            items, make = piped[0], None
        else:
            items, constructor = self.given
            make = named(constructor) if constructor else None
        function = None if self.function is None else self.function.made()
        if self.parallel == 1:
            return self._run(function, self._items(items, make))
        return crossed(self._run(function, self._items(crossed(list(items)), make)))

    def _items(self, items: Iterable[Any], make: Any) -> "Iterator[_Item]":
        return (_Item(number, item, make) for number, item in enumerate(items))

    def _run(self, function: Any, items: "Iterator[_Item]") -> Any:
        match self.op:
            case "map":
                return [item.apply(function) for item in items]
            case "starmap":
                return [item.apply(lambda value: function(*[*value])) for item in items]
            case "flatmap":
                return list(chain.from_iterable(item.apply(lambda value: list(function(value))) for item in items))
            case "filter":
                return [item.value for item in items if item.apply(lambda value: bool(function(value)))]
            case "sort":
                keys = [(item.value, item.apply(function or (lambda value: value))) for item in items]
                return [value for value, _ in sorted(keys, key=lambda pair: pair[1])]
            case "any":
                return any(item.apply(lambda value: bool(function(value) if function else value)) for item in items)
            case "all":
                return all(item.apply(lambda value: bool(function(value) if function else value)) for item in items)
        result = self.initial[0] if self.initial else _NOTHING
        for item in items:
            before = result
            result = item.value if before is _NOTHING else item.apply(lambda value: function(before, value))  # noqa: B023
        if result is _NOTHING:
            msg = "reduce of an empty list without an initial value"
            raise TypeError(msg)
        return result


_NOTHING = object()


class _Item:
    def __init__(self, number: int, value: Any, make: Any) -> None:
        """Raises Failed."""
        self._number, self.value = number, value
        if make is not None:
            self.value = self.apply(make)

    def apply(self, function: Callable[[Any], Any]) -> Any:
        """Raises Failed."""
        try:
            return function(self.value)
        except Exception as exc:
            raise Failed(exc, self._number) from None


Stage = Function | Listed


def stage_for(draw: Draw, value: Any, *, parallel: bool = False) -> Stage | None:
    """A stage that takes such a value, or at least may."""
    kind = kind_of(value)
    iterable = isinstance(value, list | tuple | range | Iterator) or (isinstance(value, np.ndarray) and value.ndim == 1)
    if iterable and (draw(st.booleans()) or kind is None):
        if isinstance(value, Iterator):
            return draw(st.sampled_from([Function(names) for names in (("list",), ("tuple",), ("sum",), ("sorted",))]))
        return list_operation(draw, list(value), parallel=2 if parallel else 1)
    return None if kind is None else function_for(draw, kind)


def function_for(draw: Draw, kind: str) -> Function:
    for _ in range(_LOOKS):
        names = draw(st.sampled_from(FUNCTIONS)).names
        fitting = shapes_before(names, kind)
        if fitting:
            shape = draw(st.sampled_from(fitting))
            return Function(names, Arguments(tuple(argument(draw, each) for each in shape)))
    return Function(draw(st.sampled_from([("repr",), ("copy", "copy"), ("bool",), ("str",)])))


def list_operation(
    draw: Draw, items: Sequence[Any], *, parallel: int = 1, given: tuple[Json, Names] | None = None
) -> Listed:
    """One for such items."""
    op = draw(st.sampled_from(_SPREAD if parallel > 1 else _OPERATIONS))
    initial: tuple[Json, ...] = ()
    function: Function | None
    if op in ("starmap", "reduce"):
        function = Function(draw(st.sampled_from(_OF_TWO)))
        if op == "reduce" and draw(st.booleans()):
            initial = (draw(st.sampled_from([0, 1, "", [], 2.5])),)
    elif op in ("sort", "any", "all") and draw(st.booleans()):
        function = None
    else:
        kind = kind_of(items[0]) if items else "int"
        function = function_for(draw, kind or "anything")
        if op == "flatmap" and draw(st.booleans()):
            function = Function(draw(st.sampled_from([("str",), ("range",), ("list",), ("divmod",), ("iter",)])))
    return Listed(op, function, given, initial, parallel)


# --- drawn ---


@st.composite
def list_operations(draw: Draw, *, parallel: int = 1) -> Composition:
    """One with a list of its own, some made by a constructor."""
    kind = draw(st.sampled_from(["ints", "ints", "texts", "numerals", "floats", "rows", "pairs", "anything"]))
    items = draw(_numerals if kind == "numerals" else KINDS["rows" if kind == "anything" else kind].json)
    constructor: Names = ()
    if kind in _CONSTRUCTORS and (draw(st.booleans()) or kind == "rows"):
        constructor = draw(st.sampled_from(_CONSTRUCTORS[kind]))
    elif items and isinstance(items[-1], list):  # it would be taken for one
        constructor = ("list",)
    with Quiet():
        made = attempted(lambda: [named(constructor)(item) for item in items]) if constructor else items
        operation = list_operation(
            draw, made if isinstance(made, list) else items, parallel=parallel, given=(items, constructor)
        )
    members = {"listop": operation.spelt(draw)}
    return composition(members, lambda place: _staged(operation, [], place))


@st.composite
def pipelines(draw: Draw, *, sessions: Sequence[str] = (), parallel: bool = False) -> Composition:
    """Stages one after another, each of them fit for what the one before comes to. With sessions: pipes over these."""
    kinds = [kind for kind in KINDS if kind not in ("big", "function")]
    first = Arguments((argument(draw, draw(st.sampled_from(kinds))),))
    pipes: list[list[Stage]] = [[]]
    with Quiet():
        value: Any = first.positional[0].make()
        for _ in range(draw(st.integers(1, _MOST_STAGES))):
            if sessions and pipes[-1] and draw(st.booleans()):
                pipes.append([])
                value = attempted(lambda value=value: crossed(value))
            if isinstance(value, Raised):
                break
            stage = stage_for(draw, value, parallel=parallel)
            if stage is None:
                break
            pipes[-1].append(stage)
            value = attempted(lambda stage=stage, value=value: stage.run(value))
    pipes = [pipe for pipe in pipes if pipe]
    assume(pipes)
    given = group(draw, first)
    if not sessions:
        members = {**given, "pipeline": [_spelt(draw, stage) for stage in pipes[0]]}
        return composition(members, lambda place: _piped(pipes[0], first.positional[0].make(), place))
    members = {**given, "pipes": []}
    for pipe in pipes:
        named_session = {"session": draw(st.sampled_from(sessions))}
        members["pipes"].append({**named_session, "pipeline": [_spelt(draw, stage) for stage in pipe]})
        if not draw(st.integers(0, 5)):
            members["pipes"].append({})

    def run(place: dict[str, int]) -> Any:
        value = first.positional[0].make()
        numbers = [number for number, pipe in enumerate(members["pipes"]) if pipe]
        for number, pipe in zip(numbers, pipes, strict=True):
            place.clear()
            place["pipe"] = number
            if pipe is not pipes[0]:
                value = crossed(value)
            value = _piped(pipe, value, place)
        return value

    return composition(members, run)


def _spelt(draw: Draw, stage: Stage) -> Json:
    return {"listop": stage.spelt(draw)} if isinstance(stage, Listed) else stage.spelt(draw)


def _piped(stages: Sequence[Stage], value: Any, place: dict[str, int]) -> Any:
    for number, stage in enumerate(stages):
        place["stage"] = number
        value = _staged(stage, [value], place)
    return value


def _staged(stage: Stage, given: list[Any], place: dict[str, int]) -> Any:
    try:
        return stage.run(*given)
    except Failed as failed:
        place["item"] = failed.item
        raise failed.exc from None


def composition(members: dict[str, Json], run: Callable[[dict[str, int]], Any]) -> Composition:
    """With what it comes to, and where; one that is the same each time."""

    def evaluated() -> tuple[Outcome, dict[str, int]]:
        place: dict[str, int] = {}
        with Quiet():
            try:
                found = outcome(run(place))
            except Formless as formless:
                (kind,) = formless.args
                return NoValue("value_not_serializable", type_name(kind)), {}
            except Exception as exc:
                return raised(exc), place
        return found, {}

    try:
        comes_to, place = evaluated()
    except Unordered:
        reject()
    assume(evaluated() == (comes_to, place))
    return Composition(members, comes_to, place)
