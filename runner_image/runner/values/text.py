"""The last step to JSON: exact builtin types in, strict UTF-8 out."""

from __future__ import annotations

import json
from math import isfinite, isnan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")).encode
_UNTOUCHED = frozenset({type(None), bool, int})


class Unknown(Exception):
    """What is to be written has no form in JSON. Says why, and names the type of what is at fault."""


class NotFinite:
    """What NaN and the infinities, which JSON does not have, become."""

    AS_NULL = 0
    AS_STRINGS = 1
    AS_TAGS = 2  # {"$float": "NaN"}: in typed form, where a string has to stay one


def dumps(tree: Any, not_finite: int) -> bytes:
    """A tree of None, bool, int, float, str, list, tuple and dict with str keys, as JSON that any reader takes.

    Raises: Unknown: two keys become one when what UTF-8 does not have is replaced in them. RecursionError.
    """
    kind = type(tree)
    if kind is float and isfinite(tree):  # as most numbers are; the encoder takes ten times as long to set itself up
        return float.__repr__(tree).encode()
    if kind is int:
        return int.__repr__(tree).encode()
    try:
        return _strict(_encode(tree))
    except ValueError:  # a number that is not finite, or a character that is none: rare, so looked for only now
        return _encode(_scrubbed(tree, not_finite)).encode()


def utf8(text: str) -> bytes:
    """A text in UTF-8, with U+FFFD for what UTF-8 does not have: lone surrogates, and numbers that are no character's."""
    try:
        return _strict(text)
    except UnicodeError:
        return _string(text).encode()


def _strict(text: str) -> bytes:
    """Raises: UnicodeError."""
    data = text.encode()
    if not data.isascii():
        data.decode()  # numpy makes strings of any 4 bytes, and those are written without a look
    return data


def _scrubbed(tree: Any, not_finite: int) -> Any:
    kind = type(tree)
    if kind is float:
        return _number(tree, not_finite)
    if kind is str:
        return _string(tree)
    if kind is dict:
        members = {_string(name): _scrubbed(value, not_finite) for name, value in tree.items()}
        if len(members) != len(tree):
            msg = "two keys of an object become one when what UTF-8 does not have is replaced in them"
            raise Unknown(msg)
        return members
    if kind is list or kind is tuple:
        if _UNTOUCHED.issuperset(map(type, tree)):
            return tree
        return [_scrubbed(item, not_finite) for item in tree]
    return tree


def _number(value: float, not_finite: int) -> float | str | dict[str, str] | None:
    if isfinite(value):
        return value
    if not_finite == NotFinite.AS_NULL:
        return None
    text = "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return {"$float": text} if not_finite == NotFinite.AS_TAGS else text


def _string(text: str) -> str:
    return text if text.isascii() else text.encode("utf-32-le", "surrogatepass").decode("utf-32-le", "replace")
