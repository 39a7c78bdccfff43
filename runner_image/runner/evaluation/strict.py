"""Strict JSON: one object in UTF-8, no key twice, no lone surrogate, no deeper than `MAX_DEPTH`."""

from __future__ import annotations

import json

from ..headroom import Headroom
from ..refusal import InvalidRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Nesting of arrays and objects.
MAX_DEPTH = 900
_CONTAINERS = frozenset({list, dict})


def load(body: bytes) -> dict[str, Any]:
    """The members of the object that `body` is. Raises InvalidRequest."""
    members = _load(body)
    if type(members) is not dict:
        msg = "the body has to be a JSON object"
        raise InvalidRequest(msg)
    return members


def _load(body: bytes) -> Any:
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        msg = f"the body is not UTF-8: byte {exc.start} is out of place"
        raise InvalidRequest(msg) from None
    try:
        with Headroom():
            value = _decode(text)
            if "\\u" in text:
                _refuse_lone_surrogates(value)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as exc:
        msg = f"the body is not JSON: {exc}"
        raise InvalidRequest(msg) from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and deeper(value, MAX_DEPTH):
        raise _too_deep()
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen = set()
        for name, _ in pairs:
            if name in seen:
                msg = f"the member {name[:100]!r} is there twice"
                raise InvalidRequest(msg, name[:100])
            seen.add(name)
    return members


_encode = json.JSONEncoder(ensure_ascii=False).encode
_decoder = json.JSONDecoder(object_pairs_hook=_unique)


def _decode(text: str) -> Any:
    """Nearly every body is an object from its first character to its last, without space around it to look for."""
    if text[:1] == "{" and text[-1:] == "}":
        try:
            value, end = _decoder.scan_once(text, 0)  # type: ignore[attr-defined]  # documented nowhere, there since 2.x
        except StopIteration:  # `decode` makes an error of it
            end = 0
        if end == len(text):
            return value
    return _decoder.decode(text)


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        _encode(value).encode()
    except UnicodeEncodeError:
        msg = "the body holds a lone surrogate (half of a \\ud800 to \\udfff pair)"
        raise InvalidRequest(msg) from None


def deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested deeper than so many levels within a list or an object."""
    level = [value]
    for _ in range(limit + 1):
        following: list[Any] = []
        for parent in level:
            children = parent.values() if type(parent) is dict else parent
            if not _CONTAINERS.isdisjoint(map(type, children)):
                following += [child for child in children if type(child) in _CONTAINERS]
        if not following:
            return False
        level = following
    return True


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
