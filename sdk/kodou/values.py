"""Values of replies: tags -> Python values, with the files beside them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from kodou import arrays, tables
from kodou.errors import BadReply
from kodou.image import Image
from kodou.tags import tag_of

_CONTAINERS = frozenset({list, dict})


class Values:
    """Decodes the value of one reply. `files` are those that came with it; None: it came as JSON alone."""

    def __init__(self, files: Mapping[str, BytesIO] | None = None) -> None:
        self._files = files

    def decode(self, value: Any) -> Any:
        """Raises BadReply: it names a file that did not come, or misstates an array."""
        if type(value) is list:
            return value if _CONTAINERS.isdisjoint(map(type, value)) else [self.decode(item) for item in value]
        if type(value) is not dict:
            return value
        tag = tag_of(value)
        make = None if tag is None else (_PLAIN if self._files is None else _TYPED).get(tag)
        return self._members(value) if make is None else make(self, value)

    def _members(self, members: dict[str, Any]) -> dict[str, Any]:
        return {name: self.decode(value) for name, value in members.items()}

    def _object(self, members: dict[str, Any]) -> dict[str, Any]:
        return self._members(members["$object"])

    def _file(self, members: dict[str, Any]) -> bytes:
        return self._named(members["$file"]).getvalue()

    def _float(self, members: dict[str, Any]) -> float:
        return float(members["$float"])

    def _array(self, members: dict[str, Any]) -> Any:
        return arrays.decode(members, self._named(members["$array"]))

    def _frame(self, members: dict[str, Any]) -> Any:
        return tables.decode(members, self.decode)

    def _image(self, members: dict[str, Any]) -> Image:
        return Image(self._named(members["$image"]).getvalue(), str(members["type"]))

    def _named(self, name: str) -> BytesIO:
        if self._files is None or name not in self._files:
            msg = f"the server's reply names a part {name!r} that did not come with it"
            raise BadReply(msg)
        return self._files[name]

    def _bytes(self, members: dict[str, Any]) -> Any:
        data = _base64(members["$bytes"])
        return members if data is None else data

    def _base64_image(self, members: dict[str, Any]) -> Any:
        data = _base64(members["$image"])
        return members if data is None else Image(data, str(members["type"]))


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None  # an object that only looks like one of ours


_Make = Callable[[Values, dict[str, Any]], Any]
# What may stand in a reply with files, and in one that is JSON alone.
_TYPED: Mapping[str, _Make] = {
    "$object": Values._object,
    "$file": Values._file,
    "$float": Values._float,
    "$array": Values._array,
    "$frame": Values._frame,
    "$image": Values._image,
}
_PLAIN: Mapping[str, _Make] = {"$bytes": Values._bytes, "$image": Values._base64_image}
