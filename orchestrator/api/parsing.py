"""The one strict way from a request's bytes to Python values.

Refused, each with its reason: duplicate members, a byte order mark, what is not UTF-8, nesting past a set depth, lone
surrogates, numbers that overflow, `NaN` and infinities where they make no sense. The framework's own parser lets some
pass and answers 500 to others.
"""

import codecs
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from orchestrator.api.problems import InvalidMembers, MalformedRequest, UnsupportedMediaType
from orchestrator.errors import InvalidRequest, PayloadTooLarge

# CPython's own limit on the digits of an integer; past it, its parser raises.
MAX_INTEGER_DIGITS = 4300

# Headers of which two would be read differently by different readers: a proxy's check of the one must not let the other in.
SINGLE_HEADERS = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"x-consumer-custom-id",
        b"x-request-id",
        b"x-session-id",
    }
)
_MOST_PARAMETERS = 20

_BOM = b"\xef\xbb\xbf"
# What clients say of JSON, those too that care for no type: nothing at all, or as a plain `curl -d`.
_JSON_TYPES = frozenset({b"", b"application/json", b"text/plain", b"application/x-www-form-urlencoded"})
_ALIASES = {b"application/protobuf": b"application/x-protobuf"}
_CHARSET = re.compile(rb';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_UTF_8 = frozenset({b"utf-8", b"utf8"})
# Between pieces of this size other threads may run: one takes some 10 ms at the worst.
_PIECE_BYTES = 256 * 1024
_STEPS = bytes(1 if chr(byte) in "[{" else 255 for byte in range(256))  # as signed bytes: +1 and -1
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_body(receive: Receive, *, limit_bytes: int | None = None) -> bytes:
    """The whole body. `middleware.Edge` bounds its size, and `connection` its time.

    Args:    limit_bytes: a bound below the edge's.
    Raises:  ClientDisconnect. PayloadTooLarge, before the rest is read.
    """
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if limit_bytes is not None and size > limit_bytes:
            msg = f"the body is over the limit of {limit_bytes} bytes"
            raise PayloadTooLarge(msg, limit_bytes=limit_bytes)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def chunks(receive: Receive) -> AsyncIterator[bytes]:
    """The body in the pieces it comes in. Raises: ClientDisconnect."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        yield message.get("body", b"")


def check_repeated(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises: MalformedRequest: one of `SINGLE_HEADERS` is there twice."""
    counts = Counter(name for name, _ in headers)
    for name in SINGLE_HEADERS & counts.keys():
        if counts[name] > 1:
            msg = f"the header {name.decode('ascii')} is there {counts[name]} times"
            raise MalformedRequest(msg)


def check_transfer(coding: bytes, http_version: str) -> None:
    """Raises: MalformedRequest: a transfer coding that was not undone, or one that HTTP/1.0 does not know."""
    if coding.lower() != b"chunked" or http_version != "1.1":
        msg = "of transfer codings there is chunked, in HTTP/1.1"
        raise MalformedRequest(msg)


def check_query(scope: Scope) -> None:
    """Raises: InvalidRequest: a query parameter that the route does not know, or one that is there twice."""
    if not scope["query_string"]:
        return
    dependant = getattr(scope.get("route"), "dependant", None)
    query_of(scope, set() if dependant is None else {parameter.alias for parameter in dependant.query_params})


def query_of(scope: Scope, known: Collection[str]) -> dict[str, str]:
    """The query's parameters. Raises: InvalidRequest: one that is not `known`, or one that is there twice."""
    try:
        pairs = parse_qsl(
            scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=_MOST_PARAMETERS
        )
    except ValueError as exc:
        msg = f"more than {_MOST_PARAMETERS} query parameters"
        raise InvalidRequest(msg, field="query") from exc
    counts = Counter(name for name, _ in pairs)
    faults = [
        (f"query.{name[:100]}", "unknown parameter" if name not in known else f"is there {count} times")
        for name, count in counts.items()
        if name not in known or count > 1
    ]
    if faults:
        raise InvalidMembers(faults)
    return dict(pairs)


def media_type(headers: Mapping[bytes, bytes]) -> bytes:
    """That of the body, without parameters; empty if none is told. Raises: UnsupportedMediaType: a compressed body."""
    encoding = headers.get(b"content-encoding")
    if encoding is not None and encoding.strip().lower() != b"identity":
        msg = "a body with a Content-Encoding is not accepted: send it as it is"
        raise UnsupportedMediaType(msg)
    return _media_type(headers.get(b"content-type", b""))


@lru_cache(maxsize=64)
def _media_type(content_type: bytes) -> bytes:
    told = content_type.partition(b";")[0].strip().lower()
    return _ALIASES.get(told, told)


def check_headers(headers: Mapping[bytes, bytes]) -> None:
    """Raises: UnsupportedMediaType: the body is said to be something else than JSON in UTF-8, or it is compressed."""
    media_type(headers)
    _check_json(headers.get(b"content-type", b""))


@lru_cache(maxsize=64)
def _check_json(content_type: bytes) -> None:
    told = _media_type(content_type)
    if told not in _JSON_TYPES and not told.endswith(b"+json"):
        msg = "a body of this Content-Type is not taken here: send JSON, with Content-Type: application/json"
        raise UnsupportedMediaType(msg)
    charset = _CHARSET.search(content_type)
    if charset is not None and charset[1].lower() not in _UTF_8:
        msg = "JSON is UTF-8: send it so, and name no other charset"
        raise UnsupportedMediaType(msg)


def loads(body: bytes, *, max_depth: int, any_number: bool = False) -> object:
    """Parse a JSON body.

    Args:    body: UTF-8 JSON. max_depth: levels of arrays and objects. any_number: accept NaN, infinities and numbers
             of any size, as a call's arguments may hold them; integers too long for `int` come back as their digits.
    Raises:  MalformedRequest: no JSON; says where. InvalidRequest: JSON that is refused, see above.
    """
    check_depth(body, max_depth=max_depth)
    text = _decoded(body)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_any_integer if any_number else _integer,
            parse_float=float if any_number else _float,
            parse_constant=float if any_number else _refuse_constant,
        )
    except json.JSONDecodeError as exc:
        msg = f"the body is not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"
        raise MalformedRequest(msg) from exc
    if _SURROGATE_ESCAPE.search(body):
        _refuse_surrogates(value)
    return value


def check_utf_8(body: bytes) -> None:
    """For parsers that pass over what they are not asked for. Raises: MalformedRequest: says where."""
    if body.isascii():  # as nearly all are
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for at in range(0, len(body), _PIECE_BYTES):
        begun = len(decoder.getstate()[0])  # of a character
        try:
            decoder.decode(body[at : at + _PIECE_BYTES], at + _PIECE_BYTES >= len(body))
        except UnicodeDecodeError as exc:
            msg = f"the body is not UTF-8: byte {at - begun + exc.start}"
            raise MalformedRequest(msg) from exc


def check_depth(body: bytes, *, max_depth: int) -> None:
    """Raises: InvalidRequest: arrays and objects are nested deeper than `max_depth`.

    Nearly every body is cleared by two counts. For the rest, the highest sum of +1 and -1 over its brackets is the depth:
    some 25 ns a bracket.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return
    depth = 0
    for brackets in outside_strings(body, b"[]{}"):
        steps = memoryview(brackets.translate(_STEPS)).cast("b")
        if max(accumulate(steps, initial=depth)) > max_depth:
            msg = f"the body is nested deeper than {max_depth} levels"
            raise InvalidRequest(msg)
        opened = brackets.count(b"[") + brackets.count(b"{")
        depth += opened - (len(brackets) - opened)


def outside_strings(body: bytes, kept: bytes) -> Iterator[bytes]:
    """Those bytes of JSON that are of `kept` and in no string, a piece of the body at a time.

    Escapes go, then everything but `kept` and quotes, then what is between quotes; memory is that of one piece.
    """
    dropped = bytes(set(range(256)).difference(kept, b'"'))
    inside, at = False, 0
    while at < len(body):
        piece = body[at : at + _PIECE_BYTES]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # it would end inside an escape
            piece = body[at : at + _PIECE_BYTES + 1]
        at += len(piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, dropped).split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0


def _decoded(body: bytes) -> str:
    if not body:
        msg = "the body is empty; a JSON object is expected"
        raise MalformedRequest(msg)
    if body.startswith(_BOM):
        msg = "the body begins with a byte order mark; send UTF-8 without one"
        raise MalformedRequest(msg)
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as exc:
        msg = f"the body is not UTF-8: byte {exc.start}"
        raise MalformedRequest(msg) from exc


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        msg = f"the member {twice[:100]!r} is there twice"
        raise InvalidRequest(msg, field=twice[:100])
    return members


def _any_integer(digits: str) -> int | str:
    return int(digits) if len(digits.lstrip("-")) <= MAX_INTEGER_DIGITS else digits


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_INTEGER_DIGITS:
        msg = f"an integer has more than {MAX_INTEGER_DIGITS} digits"
        raise InvalidRequest(msg)
    return int(digits)


def _float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        msg = f"the number {text[:40]} is too large"
        raise InvalidRequest(msg)
    return number


def _refuse_constant(name: str) -> float:
    msg = f"{name} is not JSON"
    raise MalformedRequest(msg)


def _refuse_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        msg = "a string holds half of a surrogate pair"
        raise InvalidRequest(msg) from exc
