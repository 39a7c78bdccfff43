"""The typed form: JSON in which tags stand for what JSON cannot hold in binary, with files beside it.

`{"$file": part}`: bytes. `{"$array": part, "dtype", "shape"}`: a numpy array. `{"$image": part, "type"}`: an image.
`{"$frame": "pandas" | "polars", "columns", "index"?, "data"}`: a data frame, by columns. `{"$float": "NaN" | "Infinity" |
"-Infinity"}`: a number. `{"$object": {…}}`: an object that would else be read as one of these. All else is as in plain JSON.

Arguments have the same tags, so what one session gives another takes; `array` and `frame` make such arguments.
"""

from __future__ import annotations

from math import isfinite

from ..evaluation.strict import deeper
from ..evaluation.tags import tag_of
from ..frames import MAX_FILES
from ..refusal import ReplyTooLarge
from . import array_bytes, data_frames
from .array_bytes import array
from .data_frames import frame
from .rendering import KNOWN, MAX_DEPTH, Renderer, find
from .rendering import encode as encode_json
from .room import Room
from .text import NotFinite, Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Mapping

    from .images import Content, Writer
    from .rendering import Render

__all__ = ["array", "encode", "frame"]

# As many members as a tag has at most.
_LARGEST_TAG = 4


def encode(
    value: Any, *, max_bytes: int, max_content_bytes: int
) -> tuple[bytes, str | None, list[tuple[str, Content]]]:
    """A value's JSON with tags, the name of its type unless that is JSON's own, and the files: their names and bytes.

    Raises: as `values.encode`.
    """
    renderer = _Renderer(max_bytes, max_content_bytes)
    text, name = encode_json(value, max_bytes=max_bytes, renderer=renderer)
    return text, name, renderer.files


class _Renderer(Renderer):
    not_finite = NotFinite.AS_TAGS

    def __init__(self, max_bytes: int, max_content_bytes: int) -> None:
        super().__init__(max_bytes)
        self.content = Room(max_content_bytes)
        self.files: list[tuple[str, Content]] = []
        self._escapes = False

    def find(self, kind: type) -> Render:
        return find(kind, _KNOWN)

    def members(self, members: Mapping[Any, Any]) -> dict[str, Any]:
        return self.escaped(super().members(members))

    def escaped(self, members: dict[str, Any]) -> dict[str, Any]:
        if not _reads_as_tag(members):
            return members
        self._escapes = True
        return {"$object": members}

    def check(self, tree: Any) -> None:
        if self._escapes and deeper(tree, MAX_DEPTH - 1):
            msg = f"the value is nested deeper than {MAX_DEPTH} levels, where an object that looks like a tag counts as two"
            raise Unknown(msg)

    def image(self, writer: Writer) -> Any:
        png = writer(self.content)
        return None if png is None else {"$image": self.file(png), "type": "image/png"}

    def file(self, data: Content) -> str:
        """Put `data` beside the JSON, and name it."""
        self.content.spend(len(data))
        if len(self.files) == MAX_FILES:
            msg = f"the value holds more than {MAX_FILES} byte strings, arrays and images"
            raise ReplyTooLarge(msg)
        name = f"f{len(self.files)}"
        self.files.append((name, data))
        return name


def _reads_as_tag(members: dict[str, Any]) -> bool:
    if len(members) == 1 and type(inner := members.get("$object")) is float and not isfinite(inner):
        return True  # it is written as an object, which makes this one
    return len(members) <= _LARGEST_TAG and tag_of(members) is not None


def _file(renderer: _Renderer, value: Any) -> Any:
    data = memoryview(value)
    renderer.content.check(data.nbytes)
    return {"$file": renderer.file(array_bytes.flat(data))}


def _array(renderer: _Renderer, value: Any) -> Any:
    array = array_bytes.portable(value)
    if array is None or array.ndim == 0:
        return KNOWN["numpy", "ndarray"](renderer, value)
    renderer.spend(2 * array.ndim)
    return array_bytes.tag(array, renderer.file(array_bytes.raw(array, renderer.content)))


_KNOWN: dict[tuple[str, str], Any] = {
    **KNOWN,
    ("builtins", "bytes"): _file,
    ("builtins", "bytearray"): _file,
    ("builtins", "memoryview"): _file,
    ("numpy", "ndarray"): _array,
    **data_frames.KNOWN,
}
