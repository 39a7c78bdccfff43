"""Tags in arguments: objects with one key (or a few, fixed) that stand for what JSON cannot hold.

    {"$ref": "r1"}                                              an object that the session keeps
    {"$ref": "r1", "type": …, "repr": …}                        the same, as the reply that kept it has it
    {"$file": part}                                             bytes of a file of the request
    {"$image": part or base64, "type": media type}              bytes, of a file or as in plain JSON
    {"$bytes": base64}                                          bytes
    {"$float": "NaN" | "Infinity" | "-Infinity"}                a number
    {"$array": part, "dtype": "<f8", "shape": [2, 3]}           a numpy array (`values/typed.py`)
    {"$frame": "pandas"|"polars", "columns", "index"?, "data"}  a data frame (`values/typed.py`)
    {"$object": {…}}                                            that very object, no tag whatever its keys

An object that only resembles one of these, such as {"$ref": "#/definitions/x"}, is the object that it is.
"""

from __future__ import annotations

from ..refusal import InvalidRequest
from .references import NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Mapping

    from .references import References

_CONTAINERS = frozenset({list, dict})
_OF_TEXT = frozenset({"$file", "$bytes"})
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})
# Tags of several keys: those that have to be there, and those that may.
_SHAPES = (
    ("$array", {"$array", "dtype", "shape"}, {"$array", "dtype", "shape"}),
    ("$image", {"$image", "type"}, {"$image", "type"}),
    ("$frame", {"$frame", "columns", "data"}, {"$frame", "columns", "index", "data"}),
)
# A reference, as a reply shows it.
KEPT = frozenset({"$ref", "type", "repr"})


def tag_of(members: Mapping[str, Any]) -> str | None:
    """Which tag an object has the shape of; None: it is none, whatever it resembles."""
    if len(members) == 1:
        ((name, inner),) = members.items()
        if name == "$ref":
            return name if _names_kept(inner) else None
        if name == "$object":
            return name if type(inner) is dict else None
        if name == "$float":
            return name if type(inner) is str and inner in _NOT_FINITE else None
        return name if name in _OF_TEXT and type(inner) is str else None
    for name, least, most in _SHAPES:
        if least <= members.keys() <= most:
            return name if type(members[name]) is str else None
    return "$ref" if members.keys() == KEPT and _names_kept(members["$ref"]) else None


def _names_kept(text: object) -> bool:
    return type(text) is str and NAME.fullmatch(text) is not None


class Tags:
    """Replaces the tags of one request."""

    def __init__(self, references: Callable[[], References], files: Mapping[str, memoryview]) -> None:
        self._references = references
        self._files = files
        self._unnamed = set(files)

    def check_all_named(self) -> None:
        """Raises InvalidRequest: no tag has named one of the files."""
        if self._unnamed:
            name = min(self._unnamed)
            msg = f"the part {name[:100]!r} was sent, and nothing in the request names it"
            raise InvalidRequest(msg, name[:100])

    def resolve(self, value: Any, field: str) -> Any:
        """A value with all its tags replaced. Raises InvalidRequest, ReferenceNotFound."""
        if type(value) not in _CONTAINERS:
            return value
        tag = tag_of(value) if type(value) is dict else None
        if tag is None:
            return self.each(value, field)
        return _MAKERS[tag](self, value, field)

    def each(self, values: Any, field: str) -> Any:
        """A list or object, itself no tag, with those in its elements replaced."""
        if _CONTAINERS.isdisjoint(map(type, values.values() if type(values) is dict else values)):
            return values
        if type(values) is dict:
            return {name: self.resolve(value, f"{field}.{name}") for name, value in values.items()}
        return [self.resolve(value, f"{field}[{i}]") for i, value in enumerate(values)]

    def _ref(self, members: dict[str, Any], field: str) -> Any:
        return self._references().get(members["$ref"], field)

    def _object(self, members: dict[str, Any], field: str) -> Any:
        return self.each(members["$object"], field)

    def _bytes(self, members: dict[str, Any], field: str) -> bytes:
        return _decoded(members["$bytes"], "the text of '$bytes'", field)

    def _float(self, members: dict[str, Any], field: str) -> float:
        return float(members["$float"])

    def _file(self, members: dict[str, Any], field: str) -> bytes:
        return bytes(self._named(members["$file"], field))

    def _image(self, members: dict[str, Any], field: str) -> bytes:
        text = members["$image"]
        if text in self._files:
            return bytes(self._named(text, field))
        return _decoded(text, "the text of '$image' is the name of no part that was sent, and", field)

    def _array(self, members: dict[str, Any], field: str) -> Any:
        from ..values.typed import array

        return array(members, self._named(members["$array"], field), field)

    def _frame(self, members: dict[str, Any], field: str) -> Any:
        from ..values.typed import frame

        return frame(members, self.resolve, field)

    def _named(self, name: str, field: str) -> memoryview:
        if name not in self._files:
            msg = f"no part {name[:100]!r} was sent with the request"
            raise InvalidRequest(msg, field)
        self._unnamed.discard(name)
        return self._files[name]


def _decoded(text: str, what: str, field: str) -> bytes:
    from base64 import b64decode

    try:
        return b64decode(text, validate=True)
    except ValueError as exc:
        msg = f"{what} is no base64: {exc}"
        raise InvalidRequest(msg, field) from None


_MAKERS: dict[str, Callable[[Tags, dict[str, Any], str], Any]] = {
    "$ref": Tags._ref,
    "$file": Tags._file,
    "$bytes": Tags._bytes,
    "$float": Tags._float,
    "$object": Tags._object,
    "$image": Tags._image,
    "$array": Tags._array,
    "$frame": Tags._frame,
}
