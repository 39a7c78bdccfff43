"""A `CallRequest` as the JSON of a call, with the files that its tags name (`runner/tags.py`)."""

import asyncio
import json
import math
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from runner.evaluation.references import NAME
from starlette.types import Receive, Scope

from orchestrator.api import parsing
from orchestrator.api.middleware import body_of
from orchestrator.api.problems import MalformedRequest
from orchestrator.api.protobuf import LARGE_BYTES, wire
from orchestrator.api.protobuf.kodou_pb2 import (
    Arguments,
    CallRequest,
    Element,
    Entry,
    Frame,
    Image,
    List,
    Map,
    NdArray,
    Reference,
    Value,
)
from orchestrator.errors import InvalidRequest, PayloadTooLarge, ReferenceNotFound
from orchestrator.sandboxes.work import File
from orchestrator.settings import Settings

Json = object

# Files cost the server and the runner some microseconds each, before and after the call: few bytes are better off as text.
MOST_FILES = 10_000
_INLINE_BYTES = 1024

_INTEGER = re.compile(rf"-?[0-9]{{1,{parsing.MAX_INTEGER_DIGITS}}}")
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_TARGETS = {"name": "name", "module": "moduleName", "ref": "ref"}


async def take(scope: Scope, receive: Receive, settings: Settings) -> tuple[bytes, tuple[File, ...]]:
    """The JSON of the call that a request's body holds, and the files beside it.

    Raises: MalformedRequest, InvalidRequest, ReferenceNotFound, PayloadTooLarge, Unavailable; ClientDisconnect.
    """
    body = await parsing.read_body(receive)
    most_fields, most_bytes = settings.max_protobuf_fields, settings.max_body_bytes
    if len(body) > LARGE_BYTES:
        call, files = await asyncio.to_thread(call_of, body, most_fields=most_fields, most_bytes=most_bytes)
    else:
        call, files = call_of(body, most_fields=most_fields, most_bytes=most_bytes)
    body_of(scope).hold(len(call) + sum(file.size for file in files))
    return call, files


def call_of(body: bytes, *, most_fields: int, most_bytes: int) -> tuple[bytes, tuple[File, ...]]:
    """Args:    most_fields: of the request. most_bytes: of the JSON.
    Raises:  MalformedRequest, InvalidRequest, ReferenceNotFound, PayloadTooLarge.
    """
    wire.check(body, CallRequest.DESCRIPTOR, most=most_fields)
    try:
        request = CallRequest.FromString(body)
    except DecodeError as exc:
        msg = "the body is no kodou.v1.CallRequest: perhaps a string in it is no UTF-8"
        raise MalformedRequest(msg) from exc
    reader = _Reader()
    text = json.dumps(reader.call(request), ensure_ascii=False, separators=(",", ":")).encode()
    if len(text) > most_bytes:
        msg = f"the request is over the limit of {most_bytes} bytes as JSON: make n-d arrays of its lists of numbers"
        raise PayloadTooLarge(msg, limit_bytes=most_bytes)
    return text, tuple(reader.files)


class _Reader:
    """Makes JSON of messages, and files of what JSON does not hold."""

    def __init__(self) -> None:
        self.files: list[File] = []

    def call(self, request: CallRequest) -> dict[str, Json]:
        call: dict[str, Json] = {}
        if request.sessionid:
            call["sessionid"] = request.sessionid
        if request.HasField("timeout_ms"):
            call["timeout"] = request.timeout_ms
        if request.namepath:
            call["namepath"] = [self._element(each, f"namepath[{i}]") for i, each in enumerate(request.namepath)]
        if request.args:
            call["args"] = self.values(request.args, "args")
        if request.kwargs:
            call["kwargs"] = self.entries(request.kwargs, "kwargs")
        if request.keep:
            call["keep"] = True
        if request.drop:
            call["drop"] = list(request.drop)
        return call

    def _element(self, element: Element, field: str) -> Json:
        target = element.WhichOneof("target")
        if target is None:
            msg = "an element of a namepath has to have one of 'name', 'module' and 'ref'"
            raise InvalidRequest(msg, field=field)
        called = self._arguments(element.arguments, f"{field}.") if element.HasField("arguments") else {}
        return {_TARGETS[target]: getattr(element, target), **called}

    def _arguments(self, arguments: Arguments, prefix: str) -> dict[str, Json]:
        args = self.values(arguments.args, prefix + "args")
        return {"args": args, "kwargs": self.entries(arguments.kwargs, prefix + "kwargs")}

    def values(self, values: Iterable[Value], field: str) -> list[Json]:
        return [self.value(value, f"{field}[{i}]") for i, value in enumerate(values)]

    def entries(self, entries: Iterable[Entry], field: str) -> dict[str, Json]:
        members: dict[str, Json] = {}
        for entry in entries:
            if entry.key in members:
                msg = f"the key {entry.key[:100]!r} is there twice"
                raise InvalidRequest(msg, field=field)
            members[entry.key] = self.value(entry.value, f"{field}.{entry.key[:100]}")
        return members

    def value(self, value: Value, field: str) -> Json:
        kind = value.WhichOneof("kind")
        if kind is None:
            msg = "a value without a kind: what it is has to be said, null too"
            raise InvalidRequest(msg, field=field)
        content = getattr(value, kind)
        make = _MAKERS.get(kind)
        return content if make is None else make(self, content, field)

    def file(self, data: bytes) -> str:
        if len(self.files) == MOST_FILES:
            msg = (
                f"the request has more than {MOST_FILES} n-d arrays, images and strings of {_INLINE_BYTES} bytes or more:"
                " make one array of many"
            )
            raise PayloadTooLarge(msg, limit_bytes=MOST_FILES)
        name = f"f{len(self.files)}"
        self.files.append(File(name, len(data), data))
        return name


def _double(reader: _Reader, number: float, field: str) -> Json:
    # Not bare: JSON that is none is read slowly, up to a bound.
    return number if math.isfinite(number) else {"$float": _NOT_FINITE[str(number)]}


def _bytes(reader: _Reader, data: bytes, field: str) -> Json:
    if len(data) < _INLINE_BYTES:
        return {"$bytes": b64encode(data).decode("ascii")}
    return {"$file": reader.file(data)}


def _integer(reader: _Reader, digits: str, field: str) -> Json:
    if not _INTEGER.fullmatch(digits):
        msg = f"an integer is 1 to {parsing.MAX_INTEGER_DIGITS} decimal digits, perhaps with a minus before them"
        raise InvalidRequest(msg, field=field)
    return int(digits)


def _list(reader: _Reader, message: List, field: str) -> Json:
    return reader.values(message.values, field)


def _map(reader: _Reader, message: Map, field: str) -> Json:
    members = reader.entries(message.entries, field)
    # No key of a map makes a tag of it.
    return {"$object": members} if any(name.startswith("$") for name in members) else members


def _array(reader: _Reader, message: NdArray, field: str) -> Json:
    return {"$array": reader.file(message.data), "dtype": message.dtype, "shape": list(message.shape)}


def _frame(reader: _Reader, message: Frame, field: str) -> Json:
    members: dict[str, Json] = {
        "$frame": message.library,
        "columns": reader.values(message.columns, field + ".columns"),
    }
    if message.HasField("index"):
        members["index"] = reader.value(message.index, field + ".index")
    members["data"] = reader.values(message.data, field + ".data")
    return members


def _image(reader: _Reader, message: Image, field: str) -> Json:
    return {"$image": reader.file(message.data), "type": message.media_type}


def _reference(reader: _Reader, message: Reference, field: str) -> Json:
    if not NAME.fullmatch(message.name):  # the runner would take it for an object like any other
        msg = f"the session keeps nothing called {message.name[:100]!r}"
        raise ReferenceNotFound(msg, field=field)
    return {"$ref": message.name}


# By the kinds of a `Value`. Those that are not here are JSON as they are.
_MAKERS: Mapping[str, Callable[[_Reader, Any, str], Json]] = {
    "null_value": lambda reader, message, field: None,
    "double_value": _double,
    "bytes_value": _bytes,
    "list_value": _list,
    "map_value": _map,
    "ndarray_value": _array,
    "integer_value": _integer,
    "ref_value": _reference,
    "frame_value": _frame,
    "image_value": _image,
}
