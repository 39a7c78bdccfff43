"""Reads the body of a call: strict JSON, known members, right types."""

from __future__ import annotations

import json

from .headroom import Headroom
from .refusal import InvalidRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Collection

# Nesting of arrays and objects.
MAX_DEPTH = 900
_CONTAINERS = frozenset({list, dict})

_REQUEST = frozenset({"namepath", "args", "kwargs", "sessionid", "timeout"})
_ELEMENT = frozenset({"name", "moduleName", "args", "kwargs"})
# Members of the protocol that this version does not know yet.
_LATER = frozenset({"tuple", "ref", "keep", "drop"})


class Step:
    """One element of a namepath. `positional` and `keywords` are None where it is a reference, not a call."""

    __slots__ = ("field", "is_module", "keywords", "name", "positional")

    def __init__(
        self,
        name: str,
        field: str,
        positional: list[Any] | None = None,
        keywords: dict[str, Any] | None = None,
        is_module: bool = False,
    ) -> None:
        self.name = name
        self.field = field
        self.positional = positional
        self.keywords = keywords
        self.is_module = is_module


class Request:
    """What to call and with what. There is at least one step."""

    __slots__ = ("keywords", "positional", "steps")

    def __init__(self, steps: list[Step], positional: list[Any], keywords: dict[str, Any]) -> None:
        self.steps = steps
        self.positional = positional
        self.keywords = keywords


def parse(body: bytes) -> Request:
    """The request that a CALL carries. Raises InvalidRequest, whose field names the member."""
    members = _load(body)
    if type(members) is not dict:
        msg = "the body has to be a JSON object"
        raise InvalidRequest(msg)
    _check_members(members, _REQUEST, "")
    if "namepath" not in members:
        msg = "the member 'namepath' is missing"
        raise InvalidRequest(msg, "namepath")
    positional, keywords = _arguments(members, "")
    return Request(_steps(members["namepath"]), positional or [], keywords or {})


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
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise _too_deep()
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen = set()
        for name, _ in pairs:
            if name in seen:
                msg = f"the key {name[:100]!r} stands twice in one object"
                raise InvalidRequest(msg)
            seen.add(name)
    return members


_encode = json.JSONEncoder(ensure_ascii=False).encode
_decode = json.JSONDecoder(object_pairs_hook=_unique).decode


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        _encode(value).encode()
    except UnicodeEncodeError:
        msg = "the body holds a lone surrogate (half of a \\ud800 to \\udfff pair)"
        raise InvalidRequest(msg) from None


def _deeper(value: Any, limit: int) -> bool:
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


def _check_members(members: dict[str, Any], known: Collection[str], prefix: str) -> None:
    for name in members:
        if name not in known:
            reason = "is not supported by this version" if name in _LATER else "is not known"
            msg = f"the member {name[:100]!r} {reason}; known are {', '.join(sorted(known))}"
            raise InvalidRequest(msg, (prefix + name)[:100])


def _arguments(members: dict[str, Any], prefix: str) -> tuple[list[Any] | None, dict[str, Any] | None]:
    """Positional and keyword arguments; both None where neither `args` nor `kwargs` is there."""
    if "args" not in members and "kwargs" not in members:
        return None, None
    args = members.get("args", [])
    keywords = members.get("kwargs", {})
    if type(keywords) is not dict:
        msg = "'kwargs' has to be an object"
        raise InvalidRequest(msg, prefix + "kwargs")
    if type(args) is list:
        return args, keywords
    if type(args) is not dict:
        msg = "'args' has to be a list (positional arguments) or an object (keyword arguments)"
        raise InvalidRequest(msg, prefix + "args")
    twice = [name for name in args if name in keywords]
    if twice:
        msg = f"the argument {twice[0][:100]!r} stands in both 'args' and 'kwargs'"
        raise InvalidRequest(msg, prefix + "kwargs")
    return [], {**args, **keywords}


def _steps(namepath: Any) -> list[Step]:
    if type(namepath) is str:
        return [Step(name, f"namepath[{i}]") for i, name in enumerate(_names(namepath, "namepath"))]
    if type(namepath) is not list or not namepath:
        msg = "'namepath' has to be a dotted string or a list with at least one element"
        raise InvalidRequest(msg, "namepath")
    steps: list[Step] = []
    for i, element in enumerate(namepath):
        field = f"namepath[{i}]"
        if type(element) is str:
            steps += [Step(name, field) for name in _names(element, field)]
        elif type(element) is dict:
            steps += _element(element, field)
        else:
            msg = "an element of a namepath has to be a string or an object"
            raise InvalidRequest(msg, field)
    return steps


def _element(element: dict[str, Any], field: str) -> list[Step]:
    _check_members(element, _ELEMENT, field + ".")
    if ("name" in element) == ("moduleName" in element):
        msg = "an element of a namepath has to have one of 'name' and 'moduleName'"
        raise InvalidRequest(msg, field)
    is_module = "moduleName" in element
    member = "moduleName" if is_module else "name"
    positional, keywords = _arguments(element, field + ".")
    names = _names(element[member], f"{field}.{member}")
    if is_module:
        return [Step(".".join(names), field, positional, keywords, is_module=True)]
    return [*(Step(name, field) for name in names[:-1]), Step(names[-1], field, positional, keywords)]


def _names(dotted: Any, field: str) -> list[str]:
    if type(dotted) is not str:
        msg = "a name has to be a string"
        raise InvalidRequest(msg, field)
    names = dotted.split(".")
    if not all(names):
        msg = f"{dotted[:100]!r} is not a name, nor names with dots between them"
        raise InvalidRequest(msg, field)
    return names
