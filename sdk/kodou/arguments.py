"""Python values -> arguments: JSON with tags, and files for what is bytes. What would lose something is refused."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Mapping
from typing import Any

from kodou import arrays, tables
from kodou.image import Image
from kodou.multipart import Buffer, Form, form
from kodou.tags import dumps, tag_of

_ATOMS = frozenset({type(None), bool, int, float, str})
_BYTES = (bytes, bytearray, memoryview)
# Fewer cost less within the JSON than as a file of their own, of which a request may have only so many.
INLINE_BYTES = 1024

# Far more than a server takes, and less than Python does.
MAX_DEPTH = 200
_SHOWN_KEYS = 8

Where = tuple[Any, ...]


class Arguments:
    """Encodes the arguments of one request, and gathers the files that they need.

    Args:    reference: gives the name of the kept object that an expression stands for; None for what is no expression.
    """

    def __init__(self, reference: Callable[[Any], str | None] = lambda value: None) -> None:
        self.files: dict[str, Buffer] = {}
        self._reference = reference

    def encode(self, value: Any, where: Where = ()) -> Any:
        """The value as JSON holds it. `where` it stands is told in errors.

        Raises:  TypeError: it, or something in it, would not arrive as what it is.
        """
        if type(value) in _ATOMS:
            return value
        if len(where) > MAX_DEPTH:
            msg = f"it holds itself, or is nested more than {MAX_DEPTH} deep"
            raise refused(msg, where)
        if isinstance(value, (list, tuple)):
            return self.items(value, where)
        if isinstance(value, dict):
            return self._members(value, where)
        if isinstance(value, _BYTES):
            return self._bytes(value)
        if isinstance(value, Image):
            return {"$file": self.attach(value.data)}
        name = self._reference(value)
        return {"$ref": name} if name is not None else self._foreign(value, where)

    def items(self, values: list[Any] | tuple[Any, ...], where: Where) -> list[Any]:
        if _ATOMS.issuperset(map(type, values)):
            return list(values)
        return [self.encode(value, (*where, i)) for i, value in enumerate(values)]

    def attach(self, data: Buffer) -> str:
        """The name of a file with these bytes."""
        name = f"f{len(self.files)}"
        self.files[name] = data
        return name

    def body(self, members: Mapping[str, Any]) -> bytes | Form:
        """A request's members, with the files that its arguments need."""
        text = dumps(members)
        return form(text, self.files) if self.files else text

    def _bytes(self, value: Buffer) -> dict[str, Any]:
        if memoryview(value).nbytes <= INLINE_BYTES:
            return {"$bytes": base64.b64encode(bytes(value)).decode()}
        gaps = isinstance(value, memoryview) and not value.c_contiguous
        return {"$file": self.attach(bytes(value) if gaps else value)}

    def _members(self, members: dict[Any, Any], where: Where) -> dict[str, Any]:
        for key in members:
            if not isinstance(key, str):
                msg = f"a key of type {type(key).__name__}: keys of objects are strings"
                raise refused(msg, where)
        encoded = {key: self.encode(value, (*where, key)) for key, value in members.items()}
        # As it goes, not as it is: bytes in it may have become an object.
        return {"$object": encoded} if tag_of(encoded) else encoded

    def _foreign(self, value: Any, where: Where) -> Any:
        if isinstance(value, (int, float, str)):  # an enum's member, or some other subclass
            return value
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.ndarray):
            return arrays.encode(self, value, where)
        if numpy is not None and isinstance(value, numpy.generic):
            return arrays.encode_scalar(self, value, where)
        if tables.is_frame(value):
            return tables.encode(self, value, where)
        raise refused(_reason(value), where)


def refused(reason: str, where: Where) -> TypeError:
    """Why an argument cannot go, and where it stands: `args[0]['a'][2]`."""
    if not where:
        return TypeError(reason)
    first, *rest = where
    shown = "".join(f"[{key!r}]" for key in rest[:_SHOWN_KEYS])
    return TypeError(f"{first}{shown}{'…' if len(rest) > _SHOWN_KEYS else ''}: {reason}")


def _reason(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if hasattr(kind, "to_frame"):  # a series or an index
        return f"a {name} would not arrive as one: send its `to_numpy()` or `to_frame()`"
    if callable(value):
        return f"{name} {getattr(value, '__name__', '')!r} lives in this process; name a function of the environment"
    article = "an" if name[0] in "aeiou" else "a"
    return f"{article} {name} would not arrive as one: make it in the environment, from text or numbers"
