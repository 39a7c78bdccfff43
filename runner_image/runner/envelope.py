"""What `extra` of a request begins with, and of a typed reply: forms and files; see `frames.py`."""

from __future__ import annotations

import json
from itertools import groupby

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence

    from .values.images import Content

# A file this large is a piece of its own.
_LARGE_BYTES = 64 * 1024


class Envelope:
    """`forms` are those that the client takes, the one it likes best first; `files` are parts of `extra`, not copies."""

    __slots__ = ("files", "forms")

    def __init__(self, forms: list[str], files: dict[str, memoryview]) -> None:
        self.forms = forms
        self.files = files


def read(extra: bytes) -> Envelope:
    size = frames.ENVELOPE.size
    (length,) = frames.ENVELOPE.unpack_from(extra)
    head = json.loads(extra[size : size + length])
    view = memoryview(extra)
    at = size + length
    files = {}
    for name, count in head["files"]:
        files[name] = view[at : at + count]
        at += count
    return Envelope(head.get("forms", [frames.JSON]), files)


def write(files: Sequence[tuple[str, Content]]) -> list[Content]:
    """An envelope of files only, in pieces: what is large is not copied, and what is small is joined."""
    head = json.dumps({"files": [(name, len(data)) for name, data in files]}).encode()
    pieces: list[Content] = []
    every = [frames.ENVELOPE.pack(len(head)), head, *(data for _, data in files)]
    for large, some in groupby(every, lambda data: len(data) >= _LARGE_BYTES):
        run = list(some)
        pieces += run if large else [b"".join(run)]
    return pieces
