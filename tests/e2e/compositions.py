"""Random compositions: pipelines, pipes and list operations, and what the same comes to in this process."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import chain
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.e2e.expressions import Json, Raised, Strategy, as_json, attempt, named, small

Draw = Callable[[Strategy], Any]


@dataclass(frozen=True)
class Composition:
    """`place`: where it failed, of `pipe`, `stage` and `item` those that apply."""

    members: dict[str, Json]
    outcome: Json | Raised
    place: dict[str, int] = field(default_factory=dict)


class _Failed(BaseException):  # so that `attempt` lets it through
    """The function raised at an item of a list operation."""

    def __init__(self, raised: Raised, item: int) -> None:
        super().__init__(raised, item)
        self.raised, self.item = raised, item


# By the type of what is piped in: functions, with a strategy for each argument of their own.
FUNCTIONS: dict[type, list[tuple[str, tuple[Strategy, ...]]]] = {
    list: [
        *((name, ()) for name in ("sum", "len", "max", "sorted", "tuple", "reversed", "enumerate", "json.dumps")),
        *((name, ()) for name in ("itertools.accumulate", "statistics.mean", "numpy.array")),
        ("operator.mul", (small,)),
    ],
    tuple: [("list", ()), ("len", ()), ("sum", ())],
    int: [
        *((name, ()) for name in ("abs", "str", "hex", "range", "math.sqrt")),
        *((name, (small,)) for name in ("operator.add", "divmod")),
    ],
    float: [("math.floor", ()), ("math.sqrt", ()), ("round", ()), ("repr", ())],
    str: [("len", ()), ("list", ()), ("json.loads", ()), ("str.upper", ()), ("int", ())],
    range: [("list", ()), ("sum", ()), ("len", ())],
    np.ndarray: [
        *((name, ()) for name in ("numpy.cumsum", "numpy.sort", "numpy.ndarray.tolist", "len")),
        ("numpy.multiply", (small,)),
    ],
}
ITERATOR: list[tuple[str, tuple[Strategy, ...]]] = [("list", ()), ("tuple", ())]
# Of one number.
OF_NUMBERS: dict[str, list[tuple[str, tuple[Strategy, ...]]]] = {
    "map": [("abs", ()), ("operator.neg", ()), ("operator.add", (small,)), ("math.sqrt", ()), ("str", ()), ("divmod", (small,))],
    "filter": [("bool", ()), ("operator.lt", (small,)), ("math.sqrt", ()), ("operator.mod", (small,))],
    "flatmap": [("range", ()), ("str", ())],
    "sort": [("abs", ()), ("operator.neg", ()), ("operator.mod", (st.just(7),))],
    "any": [("bool", ()), ("operator.lt", (small,))],
    "all": [("bool", ()), ("operator.lt", (small,))],
    "starmap": [("divmod", ()), ("operator.sub", ()), ("math.hypot", ())],
    "reduce": [("operator.add", ()), ("max", ()), ("operator.floordiv", ())],
}  # fmt: skip
SPREAD = ("map", "filter", "flatmap", "starmap")  # what `parallel` is for
CONSTRUCTORS = ["fractions.Fraction", "decimal.Decimal", "float", "numpy.int64"]


def function(draw: Draw, table: Sequence[tuple[str, tuple[Strategy, ...]]]) -> tuple[Json, Callable[..., Any]]:
    """One of a table, as a namepath and as what it is here: with its own arguments first."""
    dotted, wanted = draw(st.sampled_from(table))
    own = [draw(each) for each in wanted]
    names = dotted.split(".")
    found = named(names)
    if own:
        return [*names[:-1], {"name": names[-1], "args": own}], lambda *args: found(*own, *args)
    return draw(st.sampled_from([dotted, names])), found


def each(function: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
    """The results, one for each item. Raises _Failed at the first that fails."""
    results = []
    for index, item in enumerate(items):
        result = attempt(function, item)
        if isinstance(result, Raised):
            raise _Failed(result, index)
        results.append(result)
    return results


def list_operation(op: str, function: Callable[..., Any], items: list[Any], *initial: Any) -> Any:
    """Raises _Failed, and what a `reduce` raises."""
    match op:
        case "map":
            return each(function, items)
        case "starmap":
            return each(lambda item: function(*item), items)
        case "flatmap":
            return list(chain.from_iterable(each(function, items)))
        case "filter":
            return [item for item, kept in zip(items, each(function, items), strict=True) if kept]
        case "sort":
            return sorted(items, key=function)
        case "any":
            return any(function(item) for item in items)
        case "all":
            return all(function(item) for item in items)
    if not items and not initial:
        msg = "reduce of an empty list without an initial value"
        raise TypeError(msg)
    return reduce(function, items, *initial)


@st.composite
def list_operations(draw: Draw, *, parallel: int = 1) -> Composition:
    """One over numbers, or pairs of them; some made by a constructor."""
    op = draw(st.sampled_from(SPREAD if parallel > 1 else tuple(OF_NUMBERS)))
    path, called = function(draw, OF_NUMBERS[op])
    initial = draw(st.just({}) | st.fixed_dictionaries({"initial": small})) if op == "reduce" else {}
    given, items = draw(_lists_of_pairs if op == "starmap" else _lists_of_numbers)
    members = {"op": op, "function": path, "list": given, **initial}
    if parallel > 1:
        members["parallel"] = parallel
    outcome, place = _evaluated(lambda: list_operation(op, called, items, *initial.values()))
    return Composition({"listop": members}, as_json(outcome), place)


_lists_of_numbers = st.lists(small, max_size=6).flatmap(
    lambda numbers: (
        st.just((numbers, numbers))
        | st.sampled_from(CONSTRUCTORS).map(
            lambda dotted: ([*numbers, dotted.split(".")], [named(dotted.split("."))(number) for number in numbers])
        )
    )
)
_lists_of_pairs = st.lists(st.tuples(small, small).map(list), max_size=5).map(lambda pairs: ([*pairs, ["list"]], pairs))


@st.composite
def pipelines(draw: Draw, *, sessions: Sequence[str] = ()) -> Composition:
    """Stages one after another, each of them fit for what the one before comes to. With sessions: pipes over these."""
    value: Any = draw(st.lists(small, max_size=6) | st.integers(-99, 99) | st.just("[1, 2]"))
    members: dict[str, Json] = {"args": [value]}
    pipes: list[list[Json]] = [[]]
    place: dict[str, int] = {}
    for _ in range(draw(st.integers(1, 4))):
        if sessions and pipes[-1] and draw(st.booleans()):
            pipes.append([])
            value = value if isinstance(value, np.ndarray) else as_json(value)
        json, called = _stage(draw, value)
        if called is None:
            break
        pipes[-1].append(json)
        value, item = _evaluated(partial(called, value))
        if isinstance(value, Raised):
            place = {**({"pipe": len(pipes) - 1} if sessions else {}), "stage": len(pipes[-1]) - 1, **item}
            break
    if not sessions:
        return Composition({**members, "pipeline": pipes[0]}, as_json(value), place)
    named_ = [{"session": draw(st.sampled_from(sessions)), "pipeline": pipe} for pipe in pipes if pipe]
    return Composition({**members, "pipes": named_}, as_json(value), place)


def _stage(draw: Draw, value: Any) -> tuple[Json, Callable[[Any], Any] | None]:
    """A function, or a list operation, that takes such a value."""
    if isinstance(value, list) and all(type(item) is int for item in value) and draw(st.booleans()):
        op = draw(st.sampled_from([op for op in OF_NUMBERS if op != "starmap"]))
        path, called = function(draw, OF_NUMBERS[op])
        return {"listop": {"op": op, "function": path}}, lambda items: list_operation(op, called, items)
    table = ITERATOR if isinstance(value, Iterator) else FUNCTIONS.get(type(value))
    return (None, None) if table is None else function(draw, table)


def _evaluated(evaluate: Callable[[], Any]) -> tuple[Any, dict[str, int]]:
    """The outcome, and the item at which it failed."""
    try:
        return attempt(evaluate), {}
    except _Failed as failed:
        return failed.raised, {"item": failed.item}
