"""multipart/form-data, both ways: a call with files, a reply with files. Bytes go as they are."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Union

from kodou.errors import BadReply

Buffer = Union[bytes, bytearray, memoryview]  # Python 3.9 evaluates it

MEDIA_TYPE = "multipart/form-data"
_PIECE_BYTES = 1024 * 1024
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^;\s"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'^content-disposition:[^\r\n]*;\s*name="([^"\r\n]*)"', re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^content-length:\s*([0-9]{1,15})\s*$", re.IGNORECASE | re.MULTILINE)
_MAX_HEAD_BYTES = 8192


@dataclass(frozen=True)
class Form:
    """A body to send: the JSON of a call and the files that it names. May be read more than once."""

    call: bytes
    files: Mapping[str, memoryview]
    boundary: str

    @property
    def content_type(self) -> str:
        return f"{MEDIA_TYPE}; boundary={self.boundary}"

    @property
    def size(self) -> int:
        """In bytes, all together."""
        return sum(piece.nbytes if isinstance(piece, memoryview) else len(piece) for piece in self._pieces())

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces():
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from (bytes(piece[i : i + _PIECE_BYTES]) for i in range(0, piece.nbytes, _PIECE_BYTES))

    def _pieces(self) -> Iterator[bytes | memoryview]:
        yield self._head("call", "application/json")
        yield self.call
        for name, data in self.files.items():
            yield b"\r\n" + self._head(name, "application/octet-stream")
            yield data
        yield f"\r\n--{self.boundary}--\r\n".encode()

    def _head(self, name: str, content_type: str) -> bytes:
        file_name = "" if name == "call" else f'; filename="{name}"'
        return (
            f'--{self.boundary}\r\nContent-Disposition: form-data; name="{name}"{file_name}\r\n'
            f"Content-Type: {content_type}\r\n\r\n"
        ).encode()


def form(call: bytes, files: Mapping[str, Buffer]) -> Form:
    """Args:    files: by names of ours, which need no quoting; their memory is not copied."""
    views = {name: memoryview(data).cast("B") if len(data) else memoryview(b"") for name, data in files.items()}
    return Form(call, views, secrets.token_hex(16))


def read_form(content_type: str, body: bytes) -> dict[str, memoryview]:
    """The parts of a reply by name; each says its length, so that nothing is searched. Raises BadReply."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        msg = "the server's reply has parts, but names no boundary"
        raise BadReply(msg)
    mark = b"--" + (boundary.group(1) or boundary.group(2)).encode()
    parts: dict[str, memoryview] = {}
    view = memoryview(body)
    position = body.find(mark)
    while position >= 0 and body[position + len(mark) : position + len(mark) + 2] == b"\r\n":
        begin = position + len(mark) + 2
        end = body.find(b"\r\n\r\n", begin, begin + _MAX_HEAD_BYTES)
        name, length = _head(body[begin:end] if end >= 0 else b"")
        begin, end = end + 4, end + 4 + length
        if not body.startswith(b"\r\n" + mark, end):
            msg = f"the server's reply ends inside its part {name!r}"
            raise BadReply(msg)
        parts[name] = view[begin:end]
        position = end + 2
    if position < 0 or not body.startswith(mark + b"--", position):
        msg = "the server's reply ends between its parts"
        raise BadReply(msg)
    return parts


def _head(head: bytes) -> tuple[str, int]:
    name, length = _NAME.search(head), _LENGTH.search(head)
    if name is None or length is None:
        msg = "the server's reply has a part without a name or a length"
        raise BadReply(msg)
    return name.group(1).decode("utf-8", "replace"), int(length.group(1))
