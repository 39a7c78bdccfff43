"""Python values -> JSON: protocol section 2, "Values".

Nothing is imported to recognise a value: a type is known by the names of its bases, so that numpy costs only those
who use it. What JSON holds already is passed through without a look at each element; the rest is rendered by `_KNOWN`,
by the abstract types of `collections.abc`, or as an image.
"""

from __future__ import annotations

import sys
from collections.abc import ItemsView, KeysView, Mapping, Sequence, Set, ValuesView

from . import arrays, images, scalars, tables
from .describe import bounded_repr, message, type_name
from .headroom import Headroom
from .refusal import NotSerializable, NoValue, ReplyTooLarge
from .text import NotFinite, dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Render = Callable[["Renderer", Any], Any]

# Nesting. As deep as arguments may be, so that what comes in can go out.
MAX_DEPTH = 900

_ATOMS = frozenset({type(None), bool, int, float, str})
_JSON = _ATOMS | {list, dict}


class Unknown(Exception):
    """A value that has no form in JSON, and why."""

    def __init__(self, value: Any, reason: str) -> None:
        super().__init__(reason)
        self.value = value
        self.reason = reason


def encode(value: Any, *, max_bytes: int, nonfinite_as_strings: bool = False) -> tuple[bytes, str | None]:
    """A value as JSON in UTF-8, and the name of its type unless that is JSON's own.

    Raises: NotSerializable: also where user code raises on the way. ReplyTooLarge: where that shows early.
    """
    kind = type(value)
    name = None if kind in _JSON else type_name(kind)
    try:
        with Headroom():
            tree = value if kind in _ATOMS else Renderer(max_bytes).render(value)
            return dumps(tree, NotFinite.AS_STRINGS if nonfinite_as_strings else NotFinite.AS_NULL), name
    except NoValue:
        raise
    except Unknown as exc:
        culprit, reason = exc.value, exc.reason
    except BaseException as exc:  # methods of the user's may raise anything
        culprit, reason = value, f"rendering it raised {type_name(type(exc))}: {message(exc)}"
    raise NotSerializable(reason, type=type_name(type(culprit)), repr=bounded_repr(culprit))


class Renderer:
    """Turns one value into what `json` writes as it is: None, bool, int, float, str, list, tuple, dict with str keys."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._room = max_bytes
        self._inside: set[int] = set()  # ids of what is being rendered, from the outermost in
        self._known: dict[type, Render] = {}

    def spend(self, count: int) -> None:
        """Take account of `count` bytes that the reply will hold at least, before memory is spent on them."""
        self._room -= count
        if self._room < 0:
            msg = f"the value takes more than {self._max_bytes} bytes"
            raise ReplyTooLarge(msg)

    def render(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        marker = id(value)
        if marker in self._inside:
            msg = "it holds itself"
            raise Unknown(value, msg)
        if len(self._inside) >= MAX_DEPTH:
            raise Unknown(value, f"the value is nested deeper than {MAX_DEPTH} levels")
        self._inside.add(marker)
        try:
            if kind is list or kind is tuple:
                return self.items(value)
            if kind is dict:
                return self.members(value)
            return self._find(kind)(self, value)
        finally:
            self._inside.discard(marker)

    def items(self, items: list[Any] | tuple[Any, ...]) -> Any:
        """A list or tuple, itself where each of its elements can stay as it is."""
        self.spend(2 * len(items) + 2)
        if _ATOMS.issuperset(map(type, items)):
            return items
        render = self.render
        return [render(item) for item in items]

    def members(self, members: Mapping[Any, Any]) -> dict[str, Any]:
        self.spend(4 * len(members) + 2)
        if type(members) is dict and set(map(type, members)) <= {str}:
            if _ATOMS.issuperset(map(type, members.values())):
                return members
            return {name: self.render(value) for name, value in members.items()}
        rendered: dict[str, Any] = {}
        for key in members:
            name = self.key(key)
            if name in rendered:
                raise Unknown(members, f"two of its keys become the same string {name[:100]!r}")
            rendered[name] = self.render(members[key])
        return rendered

    def key(self, key: Any) -> str:
        rendered = self.render(key)
        if type(rendered) is str:
            return rendered
        if type(rendered) in _ATOMS:
            return dumps(rendered, NotFinite.AS_STRINGS).decode().strip('"')
        raise Unknown(key, f"a key of type {type_name(type(key))} cannot be written as a string")

    def _find(self, kind: type) -> Render:
        found = self._known.get(kind)
        if found is None:
            found = self._known[kind] = find(kind)
        return found


def find(kind: type) -> Render:
    """How values of a type are rendered: by what is known of its bases, nearest first."""
    names = [(base.__module__.partition(".")[0], base.__name__) for base in kind.__mro__]
    if ("enum", "Enum") in names:  # before the number, text or dataclass that it may be as well
        return _enum
    if hasattr(kind, "__dataclass_fields__"):
        return _dataclass
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple
    for name in names:
        if name in _KNOWN:
            return _KNOWN[name]
    for abstract, render in _ABSTRACT:
        if issubclass(kind, abstract):
            return render
    return _other


def _enum(renderer: Renderer, value: Any) -> Any:
    return renderer.render(value.value)


def _dataclass(renderer: Renderer, value: Any) -> Any:
    fields = sys.modules["dataclasses"].fields(value)
    return renderer.members({field.name: getattr(value, field.name) for field in fields})


def _named_tuple(renderer: Renderer, value: Any) -> Any:
    return renderer.members(dict(zip(value._fields, value)))


def _model(renderer: Renderer, value: Any) -> Any:
    dump = value.model_dump if hasattr(value, "model_dump") else value.dict  # pydantic 2 and 1
    return renderer.render(dump())


def _elements(renderer: Renderer, value: Any) -> Any:
    renderer.spend(2 * len(value))
    return renderer.items(list(value))


def _set(renderer: Renderer, value: Any) -> Any:
    renderer.spend(2 * len(value))
    try:
        elements = sorted(value)
    except Exception:  # mixed types, or comparisons of the user's
        elements = list(value)
    return renderer.items(elements)


def _other(renderer: Renderer, value: Any) -> Any:
    image = images.render(value)
    if image is not None:
        return image
    if hasattr(type(value), "__next__"):
        msg = "an iterator inside a value is not drained: make it a list"
        raise Unknown(value, msg)
    raise Unknown(value, f"a value of type {type_name(type(value))} has no JSON form")


_KNOWN: dict[tuple[str, str], Render] = {
    ("builtins", "list"): lambda renderer, value: renderer.items(list.copy(value)),
    ("builtins", "tuple"): lambda renderer, value: renderer.items(tuple(value)),
    ("builtins", "dict"): Renderer.members,
    ("builtins", "range"): _elements,
    ("pydantic", "BaseModel"): _model,
    **scalars.KNOWN,
    **arrays.KNOWN,
    **tables.KNOWN,
    **images.KNOWN,
}
_ABSTRACT: tuple[tuple[type, Render], ...] = (
    (Mapping, Renderer.members),
    (KeysView, _elements),
    (ItemsView, _elements),
    (ValuesView, _elements),
    (Set, _set),
    (Sequence, _elements),
)
