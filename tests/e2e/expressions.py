"""Random expressions over the standard library and numpy: what a client sends, and what it comes to in this process."""

import base64
import builtins
import importlib
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

Json = Any
Strategy = st.SearchStrategy[Any]
Step = tuple[Any, ...]  # a method's name, and a strategy for each of its arguments

small = st.integers(-9, 9)
text = st.text(max_size=5)
finite = st.floats(-1e6, 1e6).map(lambda number: round(number, 3))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["$ref", "$bytes", "$file", "$object"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


class Raised(NamedTuple):
    type: str
    message: str


@dataclass(frozen=True)
class Expression:
    """`members` of a call's body, and the value or exception that they come to."""

    members: dict[str, Json]
    outcome: Json | Raised


def named(names: Sequence[str]) -> Any:
    """What a namepath of names means: a module, or else a builtin, and attributes."""
    found = getattr(builtins, names[0], None) or importlib.import_module(names[0])
    for name in names[1:]:
        found = getattr(found, name)
    return found


def attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any | Raised:
    """What a call comes to."""
    try:
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            return function(*args, **kwargs)
    except Exception as exc:
        kind = type(exc)
        where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        return Raised(where + kind.__qualname__, str(exc))


def as_json(value: Any) -> Json:
    """The JSON form that the protocol gives a value."""
    match value:
        case Raised() | None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case complex():
            return [value.real, value.imag]
        case Decimal() | Fraction():
            return str(value)
        case date():
            return value.isoformat()
        case np.generic() | np.ndarray():
            return as_json(value.tolist())
        case set() | frozenset():
            return [as_json(item) for item in sorted(value)]
        case tuple() if hasattr(value, "_asdict"):
            return as_json(value._asdict())
        case Mapping():
            return {str(key): as_json(item) for key, item in value.items()}
        case Iterable():
            return [as_json(item) for item in value]
    msg = f"no JSON form is expected of {value!r}"
    raise TypeError(msg)


def told(reply: Mapping[str, Json]) -> Json | Raised:
    """The outcome that a reply tells."""
    if reply["error"]:
        assert reply["code"] == "exception", reply
        return Raised(reply["exception"]["type"], reply["exception"]["message"])
    return reply["value"]


def escaped(value: Json) -> Json:
    """JSON as an argument: objects that may look like tags are marked as what they are."""
    if isinstance(value, list):
        return [escaped(item) for item in value]
    if not isinstance(value, dict):
        return value
    members = {name: escaped(item) for name, item in value.items()}
    return {"$object": members} if any(name.startswith("$") for name in members) else members


# --- namepaths: an object is made, and methods are called on it ---

ROOTS: list[tuple[tuple[str, ...], tuple[Strategy, ...]]] = [
    (("str",), (text,)),
    (("int",), (st.integers(-(10**30), 10**30),)),
    (("float",), (finite,)),
    (("complex",), (finite, finite)),
    (("bytes",), (st.lists(st.integers(0, 255), max_size=5),)),
    (("list",), (st.lists(small, max_size=5),)),
    (("set",), (st.lists(small, max_size=5),)),
    (("dict",), (st.lists(st.tuples(text, small).map(list), max_size=4),)),
    (("fractions", "Fraction"), (small, small)),
    (("decimal", "Decimal"), (finite.map(str) | text,)),
    (("datetime", "date"), (st.integers(1, 9999), st.integers(1, 12), st.integers(1, 31))),
    (("numpy", "array"), (st.lists(small, min_size=1, max_size=6) | st.lists(finite, min_size=1, max_size=6),)),
    (("numpy", "linspace"), (small, small, st.integers(1, 6))),
]
ATTRIBUTES: dict[type, list[str]] = {
    int: ["real", "denominator"],
    float: ["imag"],
    complex: ["real", "imag"],
    Fraction: ["numerator", "denominator"],
    date: ["year", "day"],
    np.ndarray: ["T", "shape", "size", "ndim"],
}
METHODS: dict[type, list[Step]] = {
    str: [
        ("upper",), ("split",), ("title",), ("encode",), ("isdigit",), ("zfill", small), ("center", small), ("count", text),
        ("replace", text, text), ("partition", text), ("index", text), ("join", st.lists(text, max_size=3)),
    ],
    bytes: [("hex",), ("decode",), ("upper",), ("isalpha",), ("find", st.integers(0, 255))],
    int: [("bit_length",), ("__neg__",), ("__add__", small), ("__floordiv__", small), ("to_bytes", small)],
    float: [("is_integer",), ("as_integer_ratio",), ("hex",), ("__truediv__", small)],
    complex: [("conjugate",), ("__mul__", small)],
    list: [("copy",), ("count", small), ("index", small), ("__len__",), ("__getitem__", small), ("__mul__", small)],
    tuple: [("count", small), ("index", small), ("__len__",)],
    set: [("union", st.lists(small, max_size=3)), ("isdisjoint", st.lists(small, max_size=3)), ("__contains__", small)],
    dict: [("keys",), ("values",), ("items",), ("get", text, small), ("__getitem__", text), ("copy",)],
    Fraction: [("limit_denominator", small), ("__add__", small), ("__truediv__", small)],
    Decimal: [("sqrt",), ("normalize",), ("adjusted",), ("as_tuple",), ("is_signed",), ("to_integral_value",)],
    date: [("isoformat",), ("weekday",), ("toordinal",), ("isocalendar",), ("replace", small), ("strftime", st.just("%j"))],
    np.ndarray: [
        ("sum",), ("cumsum",), ("mean",), ("max",), ("argmin",), ("tolist",), ("reshape", small, small), ("take", small),
        ("astype", st.sampled_from(["f4", "i2", "?", "c16", "U5"])), ("clip", small, small), ("repeat", small),
    ],
}  # fmt: skip


@st.composite
def chains(draw: Callable[[Strategy], Any]) -> Expression:
    """Such as `numpy.array([2, 4, 6]).cumsum().sum()`, spelt in one of the ways there are."""
    names, wanted = draw(st.sampled_from(ROOTS))
    args: list[Json] | None = [draw(each) for each in wanted]
    path: list[Json] = [*names[:-1]]
    name, value = names[-1], attempt(named(names), *(args or []))
    for _ in range(draw(st.integers(0, 3))):
        methods, attributes = METHODS.get(type(value), []), ATTRIBUTES.get(type(value), [])
        if not methods:
            break
        path.append({"name": name, "args": args} if args is not None else name)
        name, *wanted = draw(st.sampled_from([*methods, *((each, None) for each in attributes)]))
        args = None if wanted == [None] else [draw(each) for each in wanted]
        found = getattr(value, name)
        value = found if args is None else attempt(found, *args)
    return Expression(_request(draw, [*path, name], args), as_json(value))


def _request(draw: Callable[[Strategy], Any], path: list[Json], args: list[Json] | None) -> dict[str, Json]:
    """Arguments of the last element stand with it, with the request, or some here and some there."""
    given = args or []
    own = draw(st.integers(0, len(given)))
    elements = [*path[:-1], {"name": path[-1], "args": given[:own]} if own else path[-1]]
    if isinstance(elements[0], str):
        elements[0] = draw(st.sampled_from([elements[0], {"name": elements[0]}, {"moduleName": elements[0]}]))
    dotted = all(isinstance(element, str) for element in elements) and draw(st.booleans())
    return {"namepath": ".".join(elements) if dotted else elements, **({"args": given[own:]} if given else {})}


# --- typed arguments ---

TYPES: list[tuple[tuple[str, ...], Strategy]] = [
    (("int",), text | st.integers().map(str)),
    (("float",), finite.map(str) | text),
    (("str",), json_values.filter(lambda value: not isinstance(value, list | dict))),
    (("complex",), st.sampled_from(["1+2j", "3", "x"])),
    (("decimal", "Decimal"), finite.map(str) | text),
    (("fractions", "Fraction"), st.sampled_from(["1/3", "0.5", "1/0", "-7", ""])),
    (("datetime", "date", "fromisoformat"), st.dates().map(str) | text),
    (("bytes", "fromhex"), st.binary(max_size=4).map(bytes.hex) | text),
    (("uuid", "UUID"), st.uuids().map(str) | text),
    (("pathlib", "PurePosixPath"), text),
    (("operator", "neg"), small),
    (("numpy", "uint8"), st.integers(0, 300) | st.integers(0, 300).map(str)),
    (("numpy", "float32"), finite.map(str)),
    (("numpy", "array"), st.lists(small, max_size=3)),
]


@dataclass(frozen=True)
class TypedArguments:
    entries: list[Json]
    values: list[Any]
    at: str | None  # the position of the first that raises


@st.composite
def typed_arguments(draw: Callable[[Strategy], Any]) -> TypedArguments:
    """A `tuple`, and the values it means; up to the first that cannot be made."""
    entries: list[Json] = []
    values: list[Any] = []
    for position in range(draw(st.integers(0, 4))):
        names, given = draw(st.sampled_from(TYPES))
        function = named(names)
        kind = draw(st.sampled_from([list(names), ".".join(names)]))
        if draw(st.booleans()):
            items = draw(st.lists(given, max_size=3))
            entries.append({"array": items, "type": kind})
            made = [attempt(function, item) for item in items]
            faults = [f".array[{index}]" for index, item in enumerate(made) if isinstance(item, Raised)]
            values.append(next((item for item in made if isinstance(item, Raised)), made))
        else:
            value = draw(given)
            compact = isinstance(value, str) and draw(st.booleans())
            entries.append({value: kind} if compact else {"value": value, "type": kind})
            values.append(attempt(function, value))
            faults = [""] if isinstance(values[-1], Raised) else []
        if faults:
            return TypedArguments(entries, values, f"tuple[{position}]{faults[0]}")
    return TypedArguments(entries, values, None)
