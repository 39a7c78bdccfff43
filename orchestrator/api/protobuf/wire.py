"""A look at a message's bytes before they are parsed.

A parser keeps fields that it does not know, and makes an object of some fifty bytes of every two: so fields are counted
here, and unknown ones refused by name.
"""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from orchestrator.api.problems import MalformedRequest
from orchestrator.api.protobuf import MAX_DEPTH
from orchestrator.errors import InvalidRequest, PayloadTooLarge

_VARINT, _FIXED64, _BYTES = 0, 1, 2
_VARINT_BYTES = 10
_OF_BYTES = frozenset({FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE})


def check(data: bytes, kind: Any, *, most: int) -> None:
    """Args:    kind: the descriptor of the message. most: fields, those of inner messages too.
    Raises:  MalformedRequest: no message at all. InvalidRequest: an unknown field. PayloadTooLarge: too many fields.
    """
    left = most
    outer: list[tuple[int, Any, str]] = []  # what the message is inside of, and its field there
    at, end = 0, len(data)
    while True:
        while at == end:
            if not outer:
                return
            end, kind, _ = outer.pop()
        key, at = _varint(data, at, end)
        field = _field(kind, key, outer)
        start, at = _content(data, at, end, key & 7)
        packed = field.is_repeated and field.type not in _OF_BYTES
        left -= max(1, at - start) if packed else 1
        if left < 0:
            msg = f"the request has more than {most} fields; elements of an n-d array are none"
            raise PayloadTooLarge(msg, limit_bytes=most)
        if field.message_type is not None:
            if len(outer) == MAX_DEPTH:
                msg = f"messages are nested deeper than {MAX_DEPTH} levels"
                raise InvalidRequest(msg, field=outer[0][2])
            outer.append((end, kind, field.name))
            at, end, kind = start, at, field.message_type


def _field(kind: Any, key: int, outer: Iterable[tuple[int, Any, str]]) -> FieldDescriptor:
    number, wire = key >> 3, key & 7
    field: FieldDescriptor | None = kind.fields_by_number.get(number)
    if field is None:
        msg, name = f"a {kind.name} has no field {number}", str(number)
    elif wire != _wire_type(field) and not (wire == _BYTES and field.is_repeated):
        msg, name = f"the field {field.name!r} of a {kind.name} is of another type", field.name
    else:
        return field
    raise InvalidRequest(msg, field=".".join([*(name for _, _, name in outer), name]))


def _wire_type(field: FieldDescriptor) -> int:
    if field.type in _OF_BYTES:
        return _BYTES
    return _FIXED64 if field.type == FieldDescriptor.TYPE_DOUBLE else _VARINT


def _content(data: bytes, at: int, end: int, wire: int) -> tuple[int, int]:
    """Where the content of a field begins and ends."""
    if wire == _VARINT:
        start, stop = at, _varint(data, at, end)[1]
    elif wire == _BYTES:
        length, start = _varint(data, at, end)
        stop = start + length
    else:
        start, stop = at, at + 8
    if stop > end:
        raise _malformed()
    return start, stop


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """An integer, and where it ends."""
    value = 0
    for i in range(_VARINT_BYTES):
        if at + i >= end:
            break
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise _malformed()


def _malformed() -> MalformedRequest:
    return MalformedRequest("the body is no message of Protocol Buffers: it ends inside a field, or begins wrongly")
