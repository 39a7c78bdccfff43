"""Python values -> JSON: protocol section 2, "Values".

Nothing is imported to recognise a value: a type is known by the names of its bases, so that numpy costs only those
who use it. What JSON holds already is passed through without a look at each element; the rest is rendered by `KNOWN`,
by the abstract types of `collections.abc`, or as an image.
"""

from __future__ import annotations

import sys
from collections.abc import ItemsView, KeysView, Mapping, Sequence, Set, ValuesView

from ..describe import bounded_repr, message, type_name
from ..headroom import Headroom
from ..refusal import NotSerializable, NoValue, ReplyTooLarge
from . import arrays, images, scalars, tables
from .kinds import names
from .room import Room
from .text import NotFinite, Unknown, dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from .images import Writer

    Render = Callable[["Renderer", Any], Any]

# Nesting. As deep as arguments may be, so that what comes in can go out.
MAX_DEPTH = 900

_ATOMS = frozenset({type(None), bool, int, float, str})
_JSON = _ATOMS | {list, dict}
# Py_TPFLAGS_HEAPTYPE: a type without it is C's own, which nobody changes and which never goes away.
_CHANGEABLE = 1 << 9


def encode(
    value: Any, *, max_bytes: int, nonfinite_as_strings: bool = False, renderer: Renderer | None = None
) -> tuple[bytes, str | None]:
    """A value as JSON in UTF-8, and the name of its type unless that is JSON's own.

    Raises: NotSerializable: also where user code raises on the way. ReplyTooLarge: where that shows early.
    """
    kind = type(value)
    name = None if kind in _JSON else type_name(kind)
    try:
        with Headroom():
            if kind is str and len(value) > max_bytes:  # before it is copied, for which there may be no memory
                Room(max_bytes).check(len(value))
            tree = value if kind in _ATOMS else (renderer or Renderer(max_bytes)).render(value)
            if renderer is not None:
                renderer.check(tree)
                return dumps(tree, renderer.not_finite), name
            return dumps(tree, NotFinite.AS_STRINGS if nonfinite_as_strings else NotFinite.AS_NULL), name
    except BaseException as exc:
        failure = no_value(value, exc)
    raise failure


def no_value(value: Any, exc: BaseException) -> NoValue:
    """What an exception that came while `value` was rendered means. Methods of the user's may raise anything.

    `type` and `repr` are those of the whole value; what in it is at fault, the detail says.
    """
    if isinstance(exc, NoValue):
        return exc
    unknown = isinstance(exc, Unknown)
    reason = str(exc) if unknown else f"rendering it raised {type_name(type(exc))}: {message(exc)}"
    return NotSerializable(reason, type=type_name(type(value)), repr=bounded_repr(value))


def has_form(value: Any, max_bytes: int) -> bool:
    """Whether a value and all that it holds have a form in JSON, be it too large. Methods of the user's may raise."""
    try:
        with Headroom():
            Renderer(max_bytes).render(value)
    except ReplyTooLarge:
        return True
    except Unknown:
        return False
    return True


class Renderer:
    """Turns one value into what `json` writes as it is: None, bool, int, float, str, list, tuple, dict with str keys."""

    not_finite = NotFinite.AS_NULL

    def __init__(self, max_bytes: int) -> None:
        self.room = Room(max_bytes)
        self.spend = self.room.spend
        self._inside: set[int] = set()  # ids of what is being rendered, from the outermost in
        self._known: dict[type, Render] = {}

    def render(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        marker = id(value)
        if marker in self._inside:
            msg = f"a value of type {type_name(kind)} holds itself"
            raise Unknown(msg)
        if len(self._inside) >= MAX_DEPTH:
            msg = f"the value is nested deeper than {MAX_DEPTH} levels"
            raise Unknown(msg)
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
                msg = f"two keys of a {type_name(type(members))} become the same string {name[:100]!r}"
                raise Unknown(msg)
            rendered[name] = self.render(members[key])
        return rendered

    def escaped(self, members: dict[str, Any]) -> dict[str, Any]:
        """An object whose members are rendered, as one that is read as such whatever its keys."""
        return members

    def check(self, tree: Any) -> None:
        """Raises Unknown: what `escaped` has put around objects makes it too deep."""

    def key(self, key: Any) -> str:
        rendered = self.render(key)
        if type(rendered) is str:
            return rendered
        if type(rendered) in _ATOMS:
            return dumps(rendered, NotFinite.AS_STRINGS).decode().strip('"')
        msg = f"a key of type {type_name(type(key))} cannot be written as a string"
        raise Unknown(msg)

    def image(self, writer: Writer) -> Any:
        """An image as PNG; None if it turns out to be none."""
        png = writer(self.room)
        if png is None:
            return None
        return {"$image": scalars.base64(self, png), "type": "image/png"}

    def find(self, kind: type) -> Render:
        found = _found.get(kind)
        if found is None:
            found = find(kind, KNOWN)
            if not kind.__flags__ & _CHANGEABLE:
                _found[kind] = found
        return found

    def _find(self, kind: type) -> Render:
        found = self._known.get(kind)
        if found is None:
            found = self._known[kind] = self.find(kind)
        return found


_found: dict[type, Render] = {}  # of types that cannot change


def find(kind: type, table: Mapping[tuple[str, str], Render]) -> Render:
    """How values of a type are rendered: by what the table has for its bases, nearest first."""
    bases = names(kind)
    if ("enum", "Enum") in bases:  # before the number, text or dataclass that it may be as well
        return _enum
    if hasattr(kind, "__dataclass_fields__"):
        return _dataclass
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple
    for name in bases:
        if name in table:
            return table[name]
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


def _members(renderer: Renderer, value: Any) -> Any:
    return renderer.members(value)


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
    writer = images.png(value)
    image = None if writer is None else renderer.image(writer)
    if image is not None:
        return image
    if hasattr(type(value), "__next__"):
        msg = f"an iterator inside a value, of type {type_name(type(value))}, is not drained: make it a list"
        raise Unknown(msg)
    msg = f"a value of type {type_name(type(value))} has no JSON form"
    raise Unknown(msg)


KNOWN: dict[tuple[str, str], Render] = {
    ("builtins", "list"): lambda renderer, value: renderer.items(list.copy(value)),
    ("builtins", "tuple"): lambda renderer, value: renderer.items(tuple(value)),
    ("builtins", "dict"): _members,
    ("builtins", "range"): _elements,
    ("pydantic", "BaseModel"): _model,
    **scalars.KNOWN,
    **arrays.KNOWN,
    **tables.KNOWN,
}
_ABSTRACT: tuple[tuple[type, Render], ...] = (
    (Mapping, _members),
    (KeysView, _elements),
    (ItemsView, _elements),
    (ValuesView, _elements),
    (Set, _set),
    (Sequence, _elements),
)
