"""multipart/form-data, both ways: a call with files, a reply with files. Bytes go as they are."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Union

from kodou.errors import BadReply

Buffer = Union[bytes, bytearray, memoryview]  # Python 3.9 evaluates it

MEDIA_TYPE = "multipart/form-data"
_PIECE_BYTES = 1024 * 1024
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^;\s"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'^content-disposition:[^\r\n]*;\s*name="([^"\r\n]*)"', re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^content-length:\s*([0-9]{1,15})\s*$", re.IGNORECASE | re.MULTILINE)
_MAX_HEAD_BYTES = 8192
_NO_PART = "the server's reply has a part without a name or a length"


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


class FormReader:
    """Reads a reply in parts as its bytes come, split anywhere. Each part says its length, so that nothing is searched,
    and is held once: what `BytesIO` has gathered becomes bytes, or the memory of an array, without a copy.

    Raises:  BadReply: the content type names no boundary.
    """

    def __init__(self, content_type: str) -> None:
        boundary = _BOUNDARY.search(content_type)
        if boundary is None:
            msg = "the server's reply has parts, but names no boundary"
            raise BadReply(msg)
        self._mark = b"\r\n--" + (boundary.group(1) or boundary.group(2)).encode()
        self._parts: dict[str, BytesIO] = {}
        self._part = BytesIO()
        self._left = 0  # bytes that the part still lacks
        self._head = b"\r\n"  # what has come of the next part's; before the first one no line ends

    def feed(self, chunk: bytes) -> None:
        """Raises BadReply: a part has no name or no length."""
        view, position = memoryview(chunk), 0
        while position < len(chunk):
            if self._left:
                written = self._part.write(view[position : position + self._left])
                self._left -= written
                position += written
            else:
                position = self._begin(chunk, position)

    def parts(self) -> dict[str, BytesIO]:
        """All parts by name, once all bytes have come. Raises BadReply: they end before the form does."""
        if self._left or not self._head.startswith(self._mark + b"--"):
            msg = "the server's reply ends before its parts do"
            raise BadReply(msg)
        return self._parts

    def _begin(self, chunk: bytes, position: int) -> int:
        """Take what there is of a part's head, and begin the part once that is whole. Where to go on in the chunk."""
        came = len(self._head)
        head = self._head + chunk[position : position + _MAX_HEAD_BYTES]
        over = head.startswith(self._mark + b"--")
        end = -1 if over else head.find(b"\r\n\r\n", max(0, came - 3))
        if end < 0:
            if len(head) > _MAX_HEAD_BYTES and not over:
                raise BadReply(_NO_PART)
            self._head = head[:_MAX_HEAD_BYTES]
            return position + _MAX_HEAD_BYTES
        name, length = _NAME.search(head, 0, end), _LENGTH.search(head, 0, end)
        if not head.startswith(self._mark + b"\r\n") or name is None or length is None:
            raise BadReply(_NO_PART)
        self._part = self._parts[name.group(1).decode("utf-8", "replace")] = BytesIO()
        self._left = int(length.group(1))
        self._head = b""
        return position + end + 4 - came
