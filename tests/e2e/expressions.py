"""Random expressions over the standard library and numpy: what a client sends, in all the ways it may, and what it comes to."""

import base64
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import assume, reject
from hypothesis import strategies as st

from tests.e2e.library import (
    EXPORTED,
    KEPT,
    KINDS,
    Draw,
    Exported,
    Kind,
    Names,
    Shape,
    members_of,
    parameters,
    shapes,
    shapes_of_method,
    text,
)
from tests.e2e.outcomes import Json, Outcome, Quiet, Raised, Refused, Unordered, named, outcome, raised

_MOST_STEPS = 3
_SEEDED = ("Random", "RandomState", "default_rng")
_NOTHING = "no_such_name"
NAMES_OF_KEPT = {names: f"r{number}" for number, names in enumerate(KEPT, 1)}


@dataclass(frozen=True)
class Argument:
    """One that is made anew for each evaluation."""

    kind: Kind
    json: Json

    def make(self) -> Any:
        return self.kind.make(self.json)

    @property
    def plain(self) -> Json:
        """As a member of `args`. Raises Unspeakable."""
        if self.kind.name == "function":
            return {"$ref": NAMES_OF_KEPT[self.json]}
        value = self.make()
        if isinstance(value, bytes):
            return {"$bytes": base64.b64encode(value).decode()}
        if self.kind.type:
            raise Unspeakable
        return escaped(value)

    def entry(self, draw: Draw) -> Json:
        """As a member of `tuple`."""
        if not self.kind.type or self.kind.name == "function":
            return {"value": self.plain, "type": ["copy", "copy"]}
        kind = draw(st.sampled_from([list(self.kind.type), ".".join(self.kind.type)]))
        if isinstance(self.json, str) and self.json not in ("type", "value", "array") and draw(st.booleans()):
            return {self.json: kind}
        return {"array" if self.kind.array else "value": escaped(self.json), "type": kind}


class Unspeakable(Exception):
    """What JSON cannot say, not with tags either."""


@dataclass(frozen=True)
class Arguments:
    positional: tuple[Argument, ...] = ()
    keywords: dict[str, Argument] = field(default_factory=dict)

    def call(self, function: Any) -> Any:
        keywords = {name: argument.make() for name, argument in self.keywords.items()}
        return function(*(argument.make() for argument in self.positional), **keywords)


@dataclass(frozen=True)
class Step:
    """An attribute, and what it is called with; None: it is not called."""

    name: str
    arguments: Arguments | None = None


class Nowhere(Exception):
    """There is no such attribute."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


@dataclass(frozen=True)
class Path:
    """`names`: of a module, or of a builtin class; `steps` go on from there."""

    names: Names
    steps: tuple[Step, ...]

    def evaluate(self) -> Any:
        """What the last step comes to: called once if it can be, whether it has arguments or not. Raises Nowhere."""
        value = named(self.names)
        for number, step in enumerate(self.steps):
            try:
                value = getattr(value, step.name)
            except AttributeError as exc:
                if exc.name not in (None, step.name):
                    raise
                raise Nowhere(number) from None
            if step.arguments is not None or (step is self.steps[-1] and callable(value)):
                value = (step.arguments or Arguments()).call(value)
        return value


@dataclass(frozen=True)
class Expression:
    """`members` of a call's body, what they come to, and what they print."""

    members: dict[str, Json]
    outcome: Outcome
    printed: str
    as_strings: bool  # NaN and infinities


def escaped(value: Json) -> Json:
    """JSON as an argument: objects that may look like tags are marked as what they are, and so is what JSON lacks."""
    if isinstance(value, list):
        return [escaped(item) for item in value]
    if isinstance(value, dict):
        members = {name: escaped(item) for name, item in value.items()}
        return {"$object": members} if any(name.startswith("$") for name in members) else members
    if isinstance(value, float) and math.isinf(value):  # (NaN goes as it is.)
        return {"$float": "Infinity" if value > 0 else "-Infinity"}
    return value


# --- drawn ---


@st.composite
def exported(draw: Draw) -> Exported:
    """From each module as often as from any other; from numpy, which has the most, more often."""
    module = draw(st.sampled_from([*EXPORTED, "builtins", "numpy", "numpy", "numpy", "numpy", "methods"]))
    return draw(st.sampled_from(EXPORTED[module]))


def arguments(
    draw: Draw, fitting: Sequence[Shape], *, keywords: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> Arguments:
    """Of kinds that fit, and now and then of any. Some by name where there are names for them."""
    either, only = keywords
    shape = draw(st.sampled_from(fitting) if fitting and draw(st.integers(0, 7)) else st.lists(_any_kind, max_size=3))
    given = [argument(draw, kind) for kind in shape]
    by_name: dict[str, Argument] = {}
    if len(either) >= len(given) and _seldom(draw):
        first = draw(st.integers(0, len(given)))
        by_name = dict(zip(either[first:], given[first:], strict=False))
        given = given[:first]
    if only and _seldom(draw):
        by_name[draw(st.sampled_from(only))] = argument(
            draw, draw(st.sampled_from(["none", "bool", "int", "text", "function"]))
        )
    # Those by name are plain JSON.
    if any(each.kind.type and each.kind.name != "bytes" for each in by_name.values()):
        given, by_name = [*given, *by_name.values()], {}
    return Arguments(tuple(given), by_name)


_any_kind = st.sampled_from([kind for kind in KINDS if kind != "big"])


def argument(draw: Draw, kind: str) -> Argument:
    return Argument(KINDS[kind], draw(KINDS[kind].json))


def _seldom(draw: Draw) -> bool:
    return not draw(st.integers(0, 3))


@st.composite
def paths(draw: Draw) -> Path:
    """Something that is exported, called where it can be, and then attributes and methods of what that comes to."""
    root = draw(exported())
    names, last = root.names[:-1] or ("builtins",), root.names[-1]
    given = arguments(draw, shapes(root.names), keywords=parameters(root.names)) if callable(root.value) else None
    steps = [Step(last, _with_seed(draw, given) if given is not None and last in _SEEDED else given)]
    for _ in range(draw(st.integers(0, _MOST_STEPS))):
        value = attempted(Path(names, tuple(steps)).evaluate)
        offered = () if isinstance(value, Raised) or _is_large(value) else members_of(value)
        if not offered:
            break
        name = _NOTHING if not draw(st.integers(0, 15)) else draw(st.sampled_from(offered))
        found = attempted(lambda value=value, name=name: getattr(value, name))
        called = callable(found) and not isinstance(found, type)
        steps.append(Step(name, arguments(draw, shapes_of_method(value, name)) if called else None))
    return Path(names, tuple(steps))


def _with_seed(draw: Draw, given: Arguments) -> Arguments:
    """Generators without one are others each time, which two looks at what they draw may not tell. (NaN is no seed: its hash
    is its address.)"""
    seeds = [each.json for each in (*given.positional, *given.keywords.values())]
    return given if any(seed is not None and seed == seed for seed in seeds) else Arguments((argument(draw, "int"),))


def attempted(function: Callable[[], Any]) -> Any:
    """What it comes to, without a word. Raises Nowhere."""
    try:
        return function()
    except Nowhere as nowhere:
        return nowhere
    except (Exception, Unordered) as exc:
        return raised(exc)


def _is_large(value: Any) -> bool:
    """So that nothing grows from step to step without end."""
    match value:
        case bool():
            return False
        case int():
            return abs(value) > 20
        case np.ndarray():
            return value.size > 60
        case range():
            return abs(value.stop - value.start) > 60
        case str() | bytes() | list() | tuple() | dict() | set():
            return len(value) > 60
    return False


@st.composite
def expressions(draw: Draw) -> Expression:
    """Such as `numpy.array([2, 4, 6]).cumsum().sum()`, spelt in one of the ways there are; a few of them lead nowhere."""
    with Quiet():
        path = draw(paths())
    as_strings = draw(st.booleans())
    members, places = spelt(draw, path)

    def evaluated() -> tuple[Outcome, str]:
        with Quiet() as quiet:
            value = attempted(path.evaluate)
            if isinstance(value, Nowhere):
                return Refused("attribute_not_found", f"namepath[{places[value.step]}]"), ""
            return outcome(value, as_strings=as_strings), quiet.text

    try:
        comes_to, printed = evaluated()
    except Unordered:
        reject()
    # What is another each time, as unseeded random numbers are, tells nothing.
    assume(evaluated() == (comes_to, printed))
    return Expression(members, comes_to, printed, as_strings)


# --- spelt ---


def spelt(draw: Draw, path: Path, *, with_request: bool = True) -> tuple[dict[str, Json], list[int]]:
    """Members of a call, and at which element of the namepath each step stands. Without `with_request`: all at elements."""
    last = path.steps[-1].arguments or Arguments()
    before = [] if path.names == ("builtins",) and draw(st.integers(0, 3)) else list(path.names)
    cut = draw(st.integers(0, len(last.positional))) if with_request else len(last.positional)
    by_name = {name: with_request and draw(st.booleans()) for name in last.keywords}
    own = Arguments(last.positional[:cut], {name: last.keywords[name] for name in by_name if not by_name[name]})
    rest = Arguments(last.positional[cut:], {name: last.keywords[name] for name in by_name if by_name[name]})
    tokens = [(name, {}) for name in before]
    tokens += [
        (step.name, {} if step.arguments is None else group(draw, step.arguments, called=True))
        for step in path.steps[:-1]
    ]
    name = path.steps[-1].name
    if len(path.steps) == 1 and isinstance(getattr(named(path.names), name), type) and _seldom(draw):
        tokens.append((name, {}))
        name = "__init__"
    tokens.append((name, group(draw, own)))
    elements, places = _elements(draw, tokens)
    return {"namepath": elements, **group(draw, rest)}, places[len(before) :]


def _elements(draw: Draw, tokens: list[tuple[str, dict[str, Json]]]) -> tuple[Json, list[int]]:
    """Names in elements of their own, or joined by dots with those before them; all in one string where that can be."""
    if not any(members for _, members in tokens) and draw(st.booleans()):
        dotted = ".".join(name for name, _ in tokens)
        return dotted, _counted(name.count(".") + 1 for name, _ in tokens)
    elements: list[Json] = []
    places: list[int] = []
    for name, members in tokens:
        joins = elements and isinstance(elements[-1], str) and _seldom(draw)
        text = f"{elements.pop()}.{name}" if joins else name
        places.append(len(elements))
        kinds = ["name", "moduleName"] if not elements and not joins else ["name"]
        plain = not members and draw(st.booleans())
        elements.append(text if plain else {draw(st.sampled_from(kinds)): text, **members})
    return elements, places


def _counted(lengths: Iterable[int]) -> list[int]:
    """The last place of each, where so many come one after another."""
    return [end - 1 for end in itertools.accumulate(lengths)]


def group(draw: Draw, given: Arguments, *, called: bool = False) -> dict[str, Json]:
    """Members that hold these arguments. `called`: there is one even if there is no argument."""
    keywords = {name: argument.plain for name, argument in given.keywords.items()}
    if not given.positional and not keywords:
        return draw(
            st.sampled_from([{"args": []}, {"tuple": []}, {"kwargs": {}}, {"args": {}}] + [{}] * 8 * (not called))
        )
    if not given.positional and draw(st.booleans()):
        return {"args": keywords}
    by_name = {"kwargs": keywords} if keywords else {}
    try:
        plain = [argument.plain for argument in given.positional]
    except Unspeakable:
        plain = None
    if plain is None or _seldom(draw):
        return {"tuple": [argument.entry(draw) for argument in given.positional], **by_name}
    return {"args": plain, **by_name}


# --- typed arguments that may be wrong ---


@dataclass(frozen=True)
class TypedArguments:
    entries: list[Json]
    values: list[Any]
    at: str | None  # the position of the first that raises


@st.composite
def typed_arguments(draw: Draw) -> TypedArguments:
    """A `tuple`, and the values it means; up to the first that cannot be made."""
    entries: list[Json] = []
    values: list[Any] = []
    for position in range(draw(st.integers(0, 4))):
        kind = KINDS[draw(st.sampled_from([name for name, kind in KINDS.items() if kind.type and name != "function"]))]
        # Of a set of texts the order, and so its `repr`, is another in each process.
        one_of_them = kind.json if kind.name in ("set", "frozenset") else kind.json | text
        items = draw(kind.json) if kind.array else draw(st.lists(one_of_them, max_size=3))
        one = Kind(kind.name, kind.json, kind.sample, kind.type)
        is_array = draw(st.booleans()) or not items
        given = Argument(Kind(kind.name, kind.json, kind.sample, kind.type, is_array), items if is_array else items[0])
        entries.append(given.entry(draw))
        made = [attempted(lambda one=one, item=item: one.make(item)) for item in (items if is_array else items[:1])]
        wrong = [index for index, value in enumerate(made) if isinstance(value, Raised)]
        if wrong:
            values.append(made[wrong[0]])
            return TypedArguments(entries, values, f"tuple[{position}]" + (f".array[{wrong[0]}]" if is_array else ""))
        values.append(made if is_array else made[0])
    return TypedArguments(entries, values, None)
