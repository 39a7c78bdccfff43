"""The JSON of a typed reply (`runner/values/typed.py`) and its files, as a `CallReply`. Not a byte of it is trusted."""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

from runner.evaluation.tags import KEPT, tag_of

from orchestrator.api.protobuf import MAX_DEPTH
from orchestrator.api.protobuf.kodou_pb2 import Value

# By name. Each is taken out as it is used: one that is named twice would take its memory twice.
Files = dict[str, memoryview]

_LEAST, _MOST, _MOST_UNSIGNED = -(2**63), 2**63 - 1, 2**64 - 1
_DIGITS = 20  # of the longest integers of 64 bits, with a sign


class TooDeep(Exception):
    """Messages would be nested deeper than parsers take."""


class Digits(str):
    """An integer that is too long to be one of 64 bits."""

    __slots__ = ()


def parse(body: bytes) -> dict[str, Any]:
    """The members of a reply that was found to be a JSON object. Raises: TooDeep."""
    try:
        members = json.loads(body, parse_int=_integer)
    except RecursionError as exc:
        raise TooDeep from exc
    return members if isinstance(members, dict) else {}


def _integer(digits: str) -> int | Digits:
    return int(digits) if len(digits) <= _DIGITS else Digits(digits)


def text(value: object) -> str:
    """A string that Protocol Buffers take; of what is none, the empty one."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def fill(target: Value, value: Any, files: Files, depth: int) -> None:
    """Write a value into a message, which is itself `depth` messages deep. Raises: TooDeep."""
    if depth > MAX_DEPTH:
        raise TooDeep
    kind = type(value)
    if kind is dict:
        _object(target, value, files, depth)
    elif kind is list:
        _list(target, value, files, depth)
    else:
        _PLAIN[kind](target, value)


def _none(target: Value, value: None) -> None:
    target.null_value.SetInParent()


def _bool(target: Value, value: bool) -> None:
    target.bool_value = value


def _int(target: Value, value: int) -> None:
    if _LEAST <= value <= _MOST:
        target.int64_value = value
    elif 0 < value <= _MOST_UNSIGNED:
        target.uint64_value = value
    else:
        target.integer_value = str(value)


def _float(target: Value, value: float) -> None:
    target.double_value = value


def _string(target: Value, value: str) -> None:
    target.string_value = text(value)


def _digits(target: Value, value: Digits) -> None:
    target.integer_value = str(value)


_PLAIN: Mapping[type, Callable[[Value, Any], None]] = {
    type(None): _none,
    bool: _bool,
    int: _int,
    float: _float,
    str: _string,
    Digits: _digits,
}


def _list(target: Value, value: list[Any], files: Files, depth: int) -> None:
    target.list_value.SetInParent()
    values = target.list_value.values
    for item in value:
        fill(values.add(), item, files, depth + 2)


def _map(target: Value, members: dict[str, Any], files: Files, depth: int) -> None:
    target.map_value.SetInParent()
    entries = target.map_value.entries
    for key, value in members.items():
        fill(entries.add(key=text(key)).value, value, files, depth + 3)


def _object(target: Value, members: dict[str, Any], files: Files, depth: int) -> None:
    """What a tag stands for; an object like any other where there is none, or one that means nothing."""
    tag = tag_of(members)
    if members.keys() == {"$object"} and tag is not None:
        _map(target, members["$object"], files, depth)
    elif members.keys() == KEPT and tag == "$ref":
        target.ref_value.name = members["$ref"]
        target.ref_value.type, target.ref_value.repr = text(members["type"]), text(members["repr"])
    elif tag == "$frame":
        _frame(target, members, files, depth)
    elif tag is None or not _TAGGED.get(tag, _nothing)(target, members, files):
        _map(target, members, files, depth)


def _nothing(target: Value, members: dict[str, Any], files: Files) -> bool:
    return False


def _frame(target: Value, members: dict[str, Any], files: Files, depth: int) -> None:
    frame = target.frame_value
    frame.library = text(members["$frame"])
    for name, values in (("columns", frame.columns), ("data", frame.data)):
        for item in members[name] if isinstance(members[name], list) else ():
            fill(values.add(), item, files, depth + 2)
    if "index" in members:
        fill(frame.index, members["index"], files, depth + 2)


def _file(target: Value, members: dict[str, Any], files: Files) -> bool:
    data = files.pop(members["$file"], None)
    if data is None:
        return False
    target.bytes_value = bytes(data)
    return True


def _bytes(target: Value, members: dict[str, Any], files: Files) -> bool:
    try:
        target.bytes_value = base64.b64decode(members["$bytes"], validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _array(target: Value, members: dict[str, Any], files: Files) -> bool:
    shape = members["shape"]
    known = isinstance(shape, list) and all(type(length) is int and 0 <= length <= _MOST for length in shape)
    data = files.pop(members["$array"], None) if known else None
    if data is None:
        return False
    array = target.ndarray_value
    array.dtype, array.data = text(members["dtype"]), bytes(data)
    array.shape.extend(shape)
    return True


def _image(target: Value, members: dict[str, Any], files: Files) -> bool:
    data = files.pop(members["$image"], None)
    if data is None:
        return False
    target.image_value.media_type, target.image_value.data = text(members["type"]), bytes(data)
    return True


def _not_finite(target: Value, members: dict[str, Any], files: Files) -> bool:
    target.double_value = float(members["$float"])
    return True


_TAGGED: Mapping[str, Callable[[Value, dict[str, Any], Files], bool]] = {
    "$file": _file,
    "$bytes": _bytes,
    "$array": _array,
    "$image": _image,
    "$float": _not_finite,
}
