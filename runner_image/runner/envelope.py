"""What `extra` of a request begins with, and of a typed reply: forms and files; see `frames.py`."""

from __future__ import annotations

import json

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Sequence


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


def write(files: Sequence[tuple[str, bytes | memoryview]]) -> bytes:
    """An envelope of files only."""
    head = json.dumps({"files": [(name, len(data)) for name, data in files]}).encode()
    return b"".join([frames.ENVELOPE.pack(len(head)), head, *(data for _, data in files)])
