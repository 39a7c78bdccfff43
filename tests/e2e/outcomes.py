"""What an expression comes to in this process, as a reply would tell it. Written from docs/protocol.md, not from the runner."""

import base64
import builtins
import importlib
import json
import math
import re
import sys
import warnings
from array import array
from collections import UserString
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from contextlib import redirect_stdout
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from io import StringIO
from itertools import islice
from pathlib import PurePath
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np

Json = Any
MOST_ITEMS = 1_000_000  # that an iterator is drained of
JSON_TYPES = (type(None), bool, int, float, str, list, dict)
NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Value(NamedTuple):
    """`json`: as text, in which 1, 1.0 and true differ. `type`: None where it is JSON's own."""

    json: str
    type: str | None = None


class Raised(NamedTuple):
    type: str
    message: str


class Refused(NamedTuple):
    code: str
    field: str | None


class NoValue(NamedTuple):
    """The call returned, and its result has no form. `type` is that of all of it."""

    code: str
    type: str | None = None


Outcome = Value | Raised | Refused | NoValue


class Unordered(BaseException):  # so that nothing takes it for what was called
    """A set whose order is another in each process."""


class Formless(Exception):
    """A value without a form in JSON."""


def named(names: Sequence[str]) -> Any:
    """What names mean: a module, which may be dotted, or else a builtin, and attributes."""
    found = getattr(builtins, names[0]) if hasattr(builtins, names[0]) else importlib.import_module(names[0])
    for name in names[1:]:
        found = getattr(found, name)
    return found


def type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class Quiet:
    """Warnings are not told, and what is printed is kept in `text`."""

    def __enter__(self) -> "Quiet":
        self._printed = StringIO()
        self._stack = [
            redirect_stdout(self._printed),
            warnings.catch_warnings(action="ignore"),
            np.errstate(all="ignore"),
        ]
        for each in self._stack:
            each.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        for each in reversed(self._stack):
            each.__exit__(*exc)

    @property
    def text(self) -> str:
        return self._printed.getvalue()


def attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any | Raised:
    """What a call comes to."""
    try:
        with Quiet():
            return function(*args, **kwargs)
    except Exception as exc:
        return raised(exc)


def raised(exc: BaseException) -> Raised:
    return Raised(type_name(type(exc)), masked(str(exc)))


def masked(text: str) -> str:
    """Without addresses in memory, and no longer than a message is told."""
    return _ADDRESS.sub(" at 0x", text[:4096])


def outcome(value: Any, *, as_strings: bool = False) -> Outcome:
    """What a reply tells of what a function returned. `as_strings`: of NaN and infinities."""
    if isinstance(value, Raised | Refused):
        return value
    with Quiet():
        try:
            if isinstance(value, Iterator):
                value = list(islice(value, MOST_ITEMS + 1))
                if len(value) > MOST_ITEMS:
                    return NoValue("too_many_items")
        except Exception as exc:
            return raised(exc)
        kind = type(value)
        try:
            form = as_json(value, as_strings=as_strings)
        except Exception:  # methods of the value fail too
            return NoValue("value_not_serializable", type_name(kind))
        return Value(exactly(form), None if kind in JSON_TYPES else type_name(kind))


def exactly(form: Json) -> str:
    """As text: members in order, no two of 1, 1.0 and true the same, and without addresses in memory."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return _ADDRESS.sub(" at 0x", json.dumps(form))
    finally:
        sys.set_int_max_str_digits(limit)


def as_json(value: Any, *, as_strings: bool = False) -> Json:
    """The JSON form that the protocol gives a value. Raises Formless."""

    def number(value: float) -> Json:
        return value if math.isfinite(value) else NOT_FINITE[repr(value)] if as_strings else None

    return _formed(value, number, lambda data: {"$bytes": base64.b64encode(data).decode()}, None)


def crossed(value: Any) -> Any:
    """What arrives of a value in another session: numbers, bytes and arrays as they are, all else in its JSON form.

    Raises Formless, with the type of all of it.
    """
    if isinstance(value, Iterator):
        value = list(value)
    try:
        return _formed(value, float, bytes, _crossed)
    except Formless:
        raise Formless(type(value)) from None


def _crossed(array: Any) -> Any:
    """None where it has to be a list."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if not array.ndim or isinstance(array, np.ma.MaskedArray) or kind not in "biufcMmSU":
        return None
    return np.array(array.astype(f"{kind}{size // 2}") if size > {"f": 8, "c": 16}.get(kind, size) else array)


def _formed(
    value: Any, number: Callable[[float], Any], binary: Callable[[Any], Any], kept: Callable[[Any], Any] | None
) -> Any:
    """`number`, `binary` and `kept` say what becomes of floats, bytes and arrays."""

    def form(value: Any) -> Any:
        match value:
            case Enum():
                return form(value.value)
            case None | bool():
                return value
            case int():
                return int(value)
            case float():
                return number(float(value))
            case str():
                return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)
            case bytes() | bytearray() | memoryview():
                return binary(value)
            case np.ndarray() | np.generic():
                return form_of_array(value if isinstance(value, np.ma.MaskedArray) else np.asarray(value))
            case complex():
                return [number(value.real), number(value.imag)]
            case Decimal() | Fraction() | UUID() | PurePath() | UserString():
                return str(value)
            case date() | time():
                return value.isoformat()
            case timedelta():
                return duration(value)
            case tuple() if hasattr(value, "_fields"):
                return {name: form(getattr(value, name)) for name in value._fields}
            case Mapping():
                return members(value)
            case KeysView() | ValuesView() | ItemsView():
                return [form(item) for item in value]
            case Set():
                try:
                    return [form(item) for item in sorted(value)]
                except TypeError:
                    raise Unordered from None
            case Sequence() | array():
                return [form(item) for item in value]
        if is_dataclass(value) and not isinstance(value, type):
            return {field.name: form(getattr(value, field.name)) for field in fields(value)}
        raise Formless(type(value))

    def members(value: Mapping[Any, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key in value:
            name = form(key)
            if isinstance(name, float) and not math.isfinite(name):
                name = NOT_FINITE[repr(name)]
            if isinstance(name, list | dict | bytes | np.ndarray):
                raise Formless(key)
            name = name if isinstance(name, str) else json.dumps(name)
            if name in found:
                raise Formless(name)
            found[name] = form(value[key])
        return found

    def form_of_array(array: Any) -> Any:
        if kept is not None and (as_it_is := kept(array)) is not None:
            return as_it_is
        if isinstance(array, np.ma.MaskedArray) and not array.ndim:
            return None if array.mask else form_of_array(array.data)
        if array.ndim:
            return [form_of_array(array[number, ...]) for number in range(len(array))]
        if array.dtype.names:
            return {name: form_of_array(array[name]) for name in array.dtype.names}
        match array.dtype.kind:
            case "M" | "m" if np.isnat(array):
                return None
            case "M":
                return str(np.datetime_as_string(array))
            case "m" if np.datetime_data(array.dtype)[0] == "generic":
                return int(array.astype("i8"))
            case "m":
                return duration(array.astype("m8[us]").item())
            case "f":
                return number(float(array))
            case "c":
                return form(complex(array))
        return form(array.item())

    return form(value)


def duration(value: timedelta) -> str:
    """ISO 8601."""
    micro = value // timedelta(microseconds=1)
    seconds, rest = divmod(abs(micro), 10**6)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    fraction = f".{rest:06}".rstrip("0") if rest else ""
    of_day = f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes) + f"{seconds}{fraction}S" * bool(seconds or rest)
    told = f"{days}D" * bool(days) + f"T{of_day}" * bool(of_day)
    return ("-" if micro < 0 else "") + "P" + (told or "T0S")


def told(status: int, reply: Mapping[str, Json]) -> Outcome:
    """The outcome that a reply tells."""
    if status != 200:
        return Refused(reply["code"], reply.get("field"))
    if not reply["error"]:
        return Value(exactly(reply["value"]), reply.get("type"))
    if reply["code"] == "exception":
        return Raised(reply["exception"]["type"], masked(reply["exception"]["message"]))
    return NoValue(reply["code"], reply.get("type"))
