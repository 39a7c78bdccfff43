"""`tuple`: an ordered list of single arguments, each made by a callable that the request names: protocol section 3."""

from __future__ import annotations

from ..refusal import ArgumentRaised, InvalidRequest, NotCallable, Refusal
from .arguments import Step, check_members, names
from .namepath import invoke, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .arguments import Reader

_TYPED = frozenset({"type", "value", "array"})


class Tuple:
    """The arguments of one `tuple`, which are made only when the call comes to it."""

    __slots__ = ("_entries", "field")

    def __init__(self, entries: Any, field: str, reader: Reader) -> None:
        """Raises InvalidRequest, ReferenceNotFound."""
        if type(entries) is not list:
            msg = "'tuple' has to be a list"
            raise InvalidRequest(msg, field)
        self.field = field
        self._entries = [_Entry(entry, f"{field}[{i}]", reader) for i, entry in enumerate(entries)]

    def __len__(self) -> int:
        return len(self._entries)

    def made(self) -> list[Any]:
        """Raises ArgumentRaised; Refusal: a type that names nothing, or what cannot be called."""
        return [entry.made() for entry in self._entries]


class _Entry:
    __slots__ = ("_field", "_is_array", "_type", "_value")

    def __init__(self, entry: Any, field: str, reader: Reader) -> None:
        if type(entry) is not dict or not entry:
            msg = "an entry of 'tuple' has to be an object: a 'type' with a 'value' or an 'array', or the compact form"
            raise InvalidRequest(msg, field)
        self._field = field
        self._is_array = "array" in entry and "type" in entry
        if "type" in entry:
            named = entry["type"]
            self._value = reader.value(_given(entry, field), f"{field}.{'array' if self._is_array else 'value'}")
        else:
            self._value, named = _compact(entry, field)
        self._type = _steps(named, field + ".type")

    def made(self) -> Any:
        make = self._resolved()
        if not self._is_array:
            return self._apply(make, self._value, self._field)
        return [self._apply(make, value, f"{self._field}.array[{i}]") for i, value in enumerate(self._value)]

    def _resolved(self) -> Any:
        try:
            make = resolve(self._type)
        except Refusal:
            raise
        except BaseException as exc:  # a module that fails to import
            raise ArgumentRaised(exc, self._field) from None
        if not callable(make):
            msg = f"{'.'.join(step.name for step in self._type)!r} is no type: it is not callable"
            raise NotCallable(msg, self._type[-1].field)
        return make

    def _apply(self, make: Any, value: Any, field: str) -> Any:
        try:
            return invoke(make, [value], {})
        except BaseException as exc:  # user code
            raise ArgumentRaised(exc, field) from None


def _given(entry: dict[str, Any], field: str) -> Any:
    check_members(entry, _TYPED, field + ".")
    if ("value" in entry) == ("array" in entry):
        msg = "beside 'type' there has to be one of 'value' and 'array'"
        raise InvalidRequest(msg, field)
    if type(entry.get("array", [])) is not list:
        msg = "'array' has to be a list"
        raise InvalidRequest(msg, field + ".array")
    return entry["array"] if "array" in entry else entry["value"]


def _compact(entry: dict[str, Any], field: str) -> tuple[str, Any]:
    """{"255": ["numpy", "uint8"]}: the value as a string, and its type."""
    if len(entry) != 1:
        msg = "an entry of 'tuple' without a 'type' has to have exactly one key: the value, as a string"
        raise InvalidRequest(msg, field)
    return next(iter(entry.items()))


def _steps(named: Any, field: str) -> list[Step]:
    parts = [named] if type(named) is str else named
    if type(parts) is not list or not parts:
        msg = "a type has to be a dotted string or a list of names"
        raise InvalidRequest(msg, field)
    return [Step(name, field) for part in parts for name in names(part, field)]
