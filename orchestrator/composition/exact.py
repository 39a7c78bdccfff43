"""JSON taken apart and put together again, every number as the text it came as: no digit is lost, nor `NaN`.

A number takes some 75 bytes then, a string or an empty object as much: whoever takes apart what others sent counts first.
"""

import json
import re
from threading import Lock
from typing import Any

import msgspec
from msgspec import Raw

_STRING = re.compile(rb'"[^"]*"')
_SEPARATORS = (b",", b":", b"[", b"{")


class TooManyValues(Exception):
    """JSON that would take too much memory, taken apart. The text is fit for the caller to read."""


class Room:
    """For so many values, of one text or of several. May be used in several threads."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most
        self._lock = Lock()

    def take(self, text: bytes) -> None:
        """Raises `TooManyValues`: there is no room left for those of `text`."""
        count = _count(text, self._most)
        with self._lock:
            self._left -= count
            if self._left < 0:
                msg = f"JSON of more than {self._most} values cannot be taken apart: send arrays or files in place of lists"
                raise TooManyValues(msg)


def loads(text: bytes) -> Any:
    """What `json.loads` makes of it, with a `Raw` for each number. Raises `ValueError`, `RecursionError`."""
    return _decode(text.decode())


def dumps(value: Any) -> bytes:
    """JSON of what `loads` gave, whose parts may be `Raw` too. Raises `ValueError` (a lone surrogate), `RecursionError`."""
    return msgspec.json.encode(value)


def _number(text: str) -> Raw:
    # Not `Raw` itself: only where Python's own code runs do other threads get their turn.
    return Raw(text)


def _count(text: bytes, most: int) -> int:
    """Values, one less, and names of members; what is empty counts for two. Past `most` any number above it."""
    count = _separators(text)
    if count <= most:
        return count
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"') // 2
    return strings if strings > most + 1 else _separators(_STRING.sub(b"", bare))


def _separators(text: bytes) -> int:
    """One goes before each value but the first, and before each member's name."""
    return sum(map(text.count, _SEPARATORS))


_decode = json.JSONDecoder(parse_int=_number, parse_float=_number, parse_constant=_number).decode
