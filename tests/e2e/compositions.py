"""Random compositions: pipelines, pipes and list operations, and what the same comes to in this process."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from hypothesis import assume, reject
from hypothesis import strategies as st

from tests.e2e.expressions import Argument, Arguments, Path, Step, argument, attempted, escaped, group, spelt
from tests.e2e.library import FUNCTIONS, KINDS, Draw, Names, kind_of, shapes_before
from tests.e2e.outcomes import (
    Formless,
    Json,
    NoValue,
    Outcome,
    Quiet,
    Raised,
    Refused,
    Unordered,
    Value,
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
# What fails for some of what there is: most texts, negative numbers, zero.
_FAILING: list[tuple[Names, tuple[str, ...]]] = [
    (("math", "sqrt"), ()), (("chr",), ()), (("operator", "truediv"), ("int",)), (("int",), ()), (("len",), ()),
    (("operator", "neg"), ()), (("json", "loads"), ()), (("bytes", "fromhex"), ()), (("next",), ()), (("ord",), ()),
    (("datetime", "date", "fromisoformat"), ()), (("numpy", "linalg", "inv"), ()), (("operator", "getitem"), ("texts",)),
]  # fmt: skip
# What names nothing, with the refusal's code, and the element that it names.
_NOWHERE: list[tuple[Json, str, int]] = [
    (["no_such_module"], "name_not_found", 0),
    (["no_such_module", "name"], "name_not_found", 0),
    (["math", "no_such_name"], "attribute_not_found", 1),
    (["os.path", {"name": "no_such_name", "args": [1]}], "attribute_not_found", 1),
    ([{"moduleName": "xml.etree.ElementTree"}, "no_such_name", "text"], "attribute_not_found", 1),
    (["numpy", {"name": "arange", "args": [3]}, "no_such_name"], "attribute_not_found", 2),
]
# Kinds that go as bytes from one sandbox to another, alone or within something else.
_BINARY = ["bytes", "bytearray", "blobs", "array", "matrix", "floating", "arrays", "uint8", "datetime64"]
_SECONDS = 600  # that what has to be ended would take
# Lists whose last item does not come back, what to call of each, and what that comes to.
_ENDINGS: list[tuple[list[Json], Names, str]] = [
    ([0, 0.001, _SECONDS], ("time", "sleep"), "timeout"),
    (["1", "2", "__import__('os')._exit(7)"], ("eval",), "worker_died"),
]


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


class Missing(Exception):
    """A namepath that leads nowhere. `at`: the element, as it is told after the stage's own position."""

    def __init__(self, code: str, at: str) -> None:
        super().__init__(code, at)
        self.code, self.at = code, at


class Ended(Exception):
    """The process, or the time."""


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
class Nothing:
    """A namepath that leads nowhere."""

    namepath: Json
    code: str
    element: int

    def made(self) -> Callable[..., Any]:
        """Raises Missing, as soon as it is looked up."""
        raise Missing(self.code, f"[{self.element}]")

    def run(self, *_: Any) -> Any:
        """Raises Missing."""
        return self.made()

    def spelt(self, draw: Draw) -> Json:
        plain = all(isinstance(element, str) for element in self.namepath)
        return ".".join(self.namepath) if plain and draw(st.booleans()) else self.namepath


@dataclass(frozen=True)
class Listed:
    """A list operation; `given` is its list where that is not what is piped."""

    op: str
    function: Function | Nothing | None
    given: tuple[Json, Function | Nothing | None] | None = None  # with what makes its items
    initial: tuple[Json, ...] = ()
    parallel: int = 1
    ends: bool = False  # at its last item

    def spelt(self, draw: Draw) -> dict[str, Json]:
        members: dict[str, Json] = {"op": self.op}
        if self.function is not None:
            members["function"] = self.function.spelt(draw)
        if self.given is not None:
            items, constructor = self.given
            members["list"] = escaped(items)
            if constructor is not None:
                spelt = constructor.namepath if isinstance(constructor, Nothing) else constructor.spelt(draw)
                members["list"].append([spelt] if isinstance(spelt, str) else spelt)
        if self.initial:
            members["initial"] = escaped(self.initial[0])
        if self.parallel > 1:
            members["parallel"] = self.parallel
        return members

    def run(self, *piped: Any) -> Any:
        """Raises Failed, Missing, Ended, and what is raised for no single item."""
        items, constructor = (piped[0], None) if self.given is None else self.given
        if self.parallel > 1:
            items = crossed(list(items))
        if self.ends:
            raise Failed(Ended(), len(items) - 1)
        make = None if constructor is None else _made(constructor, f".list[{len(items)}]")
        function = None if self.function is None else _made(self.function, ".function")
        result = self._run(function, self._items(items, make))
        return crossed(result) if self.parallel > 1 else result

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


def _made(function: Function | Nothing, member: str) -> Callable[..., Any]:
    """Raises Missing, with where in the stage."""
    try:
        return function.made()
    except Missing as missing:
        raise Missing(missing.code, f".listop{member}{missing.at}") from None


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


Stage = Function | Nothing | Listed


def stage_for(draw: Draw, value: Any, *, parallel: bool = False) -> Stage | None:
    """A stage that takes such a value, or at least may; now and then one that hardly does."""
    if not draw(st.integers(0, 7)):
        return wrong_stage(draw, value, parallel=parallel)
    kind = kind_of(value)
    iterable = isinstance(value, list | tuple | range | Iterator) or (isinstance(value, np.ndarray) and value.ndim == 1)
    if iterable and (draw(st.booleans()) or kind is None):
        if isinstance(value, Iterator):
            return draw(st.sampled_from([Function(names) for names in (("list",), ("tuple",), ("sum",), ("sorted",))]))
        return list_operation(draw, list(value), parallel=_parallel(draw, parallel))
    return None if kind is None else function_for(draw, kind)


def _parallel(draw: Draw, parallel: bool) -> int:
    return draw(st.integers(1, 3)) if parallel else 1


def wrong_stage(draw: Draw, value: Any, *, parallel: bool = False) -> Stage:
    """One that fails for most values, or that leads nowhere."""
    function: Function | Nothing
    if draw(st.booleans()):
        names, own = draw(st.sampled_from(_FAILING))
        function = Function(names, Arguments(tuple(argument(draw, kind) for kind in own)))
    else:
        function = Nothing(*draw(st.sampled_from(_NOWHERE)))
    if not isinstance(value, list | tuple | range | np.ndarray) or not draw(st.booleans()):
        return function
    op = draw(
        st.sampled_from(("map", "filter", "flatmap") if parallel else ("map", "filter", "flatmap", "sort", "any"))
    )
    return Listed(op, function, parallel=_parallel(draw, parallel))


def function_for(draw: Draw, kind: str) -> Function:
    for _ in range(_LOOKS):
        names = draw(st.sampled_from(FUNCTIONS)).names
        fitting = shapes_before(names, kind)
        if fitting:
            shape = draw(st.sampled_from(fitting))
            return Function(names, Arguments(tuple(argument(draw, each) for each in shape)))
    return Function(draw(st.sampled_from([("repr",), ("copy", "copy"), ("bool",), ("str",)])))


def list_operation(
    draw: Draw,
    items: Sequence[Any],
    *,
    parallel: int = 1,
    given: tuple[Json, Function | Nothing | None] | None = None,
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


def own_list(draw: Draw, *, parallel: int = 1) -> Listed:
    """An operation with a list of its own, some made by a constructor."""
    kind = draw(st.sampled_from(["ints", "ints", "texts", "numerals", "floats", "rows", "pairs", "anything"]))
    items = draw(_numerals if kind == "numerals" else KINDS["rows" if kind == "anything" else kind].json)
    constructor = _constructor(draw, kind, items)
    made = attempted(lambda: [constructor.made()(item) for item in items]) if constructor else items
    return list_operation(
        draw, made if isinstance(made, list) else items, parallel=parallel, given=(items, constructor)
    )


def _constructor(draw: Draw, kind: str, items: Sequence[Json]) -> Function | Nothing | None:
    if kind in _CONSTRUCTORS and (draw(st.booleans()) or kind == "rows"):
        if not draw(st.integers(0, 9)):
            return Nothing(*draw(st.sampled_from(_NOWHERE)))
        if kind == "ints" and draw(st.booleans()):
            return function_for(draw, "int")
        return Function(draw(st.sampled_from(_CONSTRUCTORS[kind])))
    # An array in last position would be taken for one.
    return Function(("list",)) if items and isinstance(items[-1], list) else None


@st.composite
def list_operations(draw: Draw, *, parallel: int = 1) -> Composition:
    """One with a list of its own."""
    with Quiet():
        operation = own_list(draw, parallel=parallel)
    members = {"listop": operation.spelt(draw)}
    return composition(members, lambda place: _staged(operation, [], place))


class Draft:
    """Stages one after another, each of them fit for what the one before comes to; in pipes, which end where they end."""

    def __init__(self, draw: Draw, *, several: bool, parallel: bool) -> None:
        self._draw = draw
        self._several = several
        self._parallel = parallel
        self.given: tuple[Argument, ...] = ()
        self.pipes: list[list[Stage]] = [[]]
        self.value: Any = None
        if draw(st.integers(0, 3)):
            kinds = [kind for kind in KINDS if kind not in ("big", "function")]
            binary = several and draw(st.booleans())
            self.given = (argument(draw, draw(st.sampled_from(_BINARY if binary else kinds))),)
            self.value = self.given[0].make()
        else:
            self.add(own_list(draw, parallel=_parallel(draw, parallel)))

    def grow(self) -> None:
        """By some stages, as long as there is a value to go on with; past a failure by some that are never come to."""
        for _ in range(self._draw(st.integers(1, _MOST_STAGES))):
            if self._several and self.pipes[-1] and self._draw(st.booleans()):
                self.next_pipe()
            if isinstance(self.value, Raised):
                if self._draw(st.booleans()):
                    break
                self.pipes[-1].append(function_for(self._draw, "int"))
                continue
            stage = stage_for(self._draw, self.value, parallel=self._parallel)
            if stage is None:
                break
            self.add(stage)

    def next_pipe(self) -> None:
        self.pipes.append([])
        if not isinstance(self.value, Raised):
            self.value = attempted(lambda: crossed(self.value))

    def add(self, stage: Stage) -> None:
        self.pipes[-1].append(stage)
        self.value = attempted(lambda: stage.run(self.value))

    def spelt(self, sessions: Sequence[str]) -> Composition:
        """In `sessions`, by turns as it happens, or in whichever takes the request; without any it is one pipeline."""
        draw, pipes = self._draw, [pipe for pipe in self.pipes if pipe]
        assume(pipes)
        members = group(draw, Arguments(self.given))
        if not self._several:
            members["pipeline"] = [_spelt(draw, stage) for stage in pipes[0]]
            return composition(members, lambda place: _piped(pipes[0], self._first(), place))
        members["pipes"], numbers = [], []
        for pipe in pipes:
            members["pipes"] += [{}] * (not draw(st.integers(0, 5)))
            numbers.append(len(members["pipes"]))
            chosen = draw(st.sampled_from([*sessions, None]))
            named_session = {} if chosen is None else {"session": chosen}
            members["pipes"].append({**named_session, "pipeline": [_spelt(draw, stage) for stage in pipe]})

        def run(place: dict[str, int]) -> Any:
            value = self._first()
            for number, pipe in zip(numbers, pipes, strict=True):
                value = value if pipe is pipes[0] else crossed(value)
                place.clear()
                place["pipe"] = number
                value = _piped(pipe, value, place)
            return value

        return composition(members, run)

    def _first(self) -> Any:
        return self.given[0].make() if self.given else None


@st.composite
def pipelines(draw: Draw, *, sessions: Sequence[str] = (), parallel: bool = False) -> Composition:
    """Stages one after another. With sessions: pipes over these."""
    with Quiet():
        draft = Draft(draw, several=bool(sessions), parallel=parallel)
        draft.grow()
    return draft.spelt(sessions)


@st.composite
def ended(draw: Draw, *, sessions: Sequence[str]) -> Composition:
    """Pipes over these sessions, of which one comes to an item of a list that does not end by itself."""
    with Quiet():
        draft = Draft(draw, several=True, parallel=False)
        draft.grow()
        assume(not isinstance(draft.value, Raised))
        if draw(st.booleans()):
            draft.next_pipe()
        items, names, code = draw(st.sampled_from(_ENDINGS))
        # A list in place of whatever there is, which only goes along as what each key is for.
        draft.add(Function(("dict", "fromkeys"), Arguments((Argument(KINDS["anything"], items),))))
        draft.add(Function(("list",)))
        assume(draft.value == items)
        spread = code != "timeout"  # else it may come while a sandbox starts
        draft.add(Listed("map", Function(names), parallel=_parallel(draw, spread), ends=True))
        draft.grow()
    composed = draft.spelt(sessions)
    assume(composed.outcome == raised(Ended()))
    return Composition(composed.members, NoValue(code), composed.place)


def _spelt(draw: Draw, stage: Stage) -> Json:
    """In one of the ways there are; the plain one where a refusal will name it."""
    spelt = stage.spelt(draw)
    if isinstance(stage, Nothing):
        return spelt
    if isinstance(stage, Function):
        return [spelt] if isinstance(spelt, list) and draw(st.booleans()) else spelt
    bare = stage.given is None and not isinstance(stage.function, Nothing) and draw(st.booleans())
    return spelt if bare else {"listop": spelt}


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
                return NoValue("value_not_serializable", type_name(kind)), place
            except Missing as missing:
                return Refused(missing.code, (_field(place) + missing.at).lstrip(".")), place
            except Exception as exc:
                return raised(exc), place
        return found, {} if isinstance(found, Value) else place

    try:
        comes_to, place = evaluated()
    except Unordered:
        reject()
    assume(evaluated() == (comes_to, place))
    return Composition(members, comes_to, place)


def _field(place: dict[str, int]) -> str:
    """Of a stage, as a refusal names it."""
    pipe = f"pipes[{place['pipe']}]." if "pipe" in place else ""
    return f"{pipe}pipeline[{place['stage']}]" if "stage" in place else ""
