"""An error of ours as a problem document (RFC 9457): the only place that knows status codes.

Every refusal of the server has this shape, those of the framework too: unknown routes, wrong methods, bodies that do not
validate, and what nobody foresaw, which says nothing but a request id.
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from orchestrator import errors
from orchestrator.errors import InvalidRequest, KodouError, Refused

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:kodou:problem:"

Header = tuple[bytes, bytes]
Rendered = tuple[int, list[Header], bytes]  # status, headers and body

# On every reply that does not carry one of the name: nothing here is a page that may run, frame or load anything.
SECURITY_HEADERS: tuple[Header, ...] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)

# On every reply of a call after which, or for which, the session got a fresh interpreter.
RESTARTED: Header = (b"kodou-restarted", b"true")


class MalformedRequest(InvalidRequest):
    """The bytes are no JSON at all, or no UTF-8."""


class InvalidMembers(InvalidRequest):
    """JSON of the wrong shape. `faults` are pairs of a member's path (`resources.cpus`) and what is wrong with it."""

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{field}: {text}" for field, text in faults), field=faults[0][0])
        self.faults = tuple(faults)

    def members(self) -> dict[str, object]:
        return {**super().members(), "errors": [{"field": field, "detail": text} for field, text in self.faults]}


class MethodNotAllowed(Refused):
    code = "method_not_allowed"

    def __init__(self, detail: str, *, allow: str) -> None:
        super().__init__(detail)
        self.allow = allow


class NotAcceptable(Refused):
    code = "not_acceptable"

    def __init__(self, detail: str, *, available: Sequence[str]) -> None:
        super().__init__(detail)
        self.available = tuple(available)

    def members(self) -> dict[str, object]:
        return {"available": list(self.available)}


class HeadTooLarge(Refused):
    code = "head_too_large"


class MisdirectedRequest(Refused):
    code = "misdirected_request"


class RequestTimeout(Refused):
    code = "request_timeout"


class UnsupportedMediaType(Refused):
    code = "unsupported_media_type"


class SandboxReplaced(errors.SandboxLost):
    """The sandbox ended under the call; the session's next call finds a fresh one."""

    def members(self) -> dict[str, object]:
        return {"restarted": True}


class NotReady(errors.Unavailable):
    """`checks`: what was looked at, and what is wrong with it, or "ok"."""

    code = "not_ready"

    def __init__(self, checks: Mapping[str, str]) -> None:
        super().__init__("the server cannot take requests yet", after_s=2)
        self.checks = dict(checks)

    def members(self) -> dict[str, object]:
        return {"checks": self.checks}


class TooManyConnections(errors.Unavailable):
    code = "too_many_connections"


@dataclass(frozen=True, slots=True)
class Kind:
    status: int
    title: str


_INTERNAL = Kind(500, "Internal error")
_UNAVAILABLE = Kind(503, "Temporarily unavailable")
_INVALID = Kind(422, "Invalid request")

KINDS: Mapping[type[KodouError], Kind] = {
    KodouError: _INTERNAL,
    errors.Refused: Kind(400, "Request refused"),
    errors.InvalidRequest: _INVALID,
    MalformedRequest: Kind(400, "Malformed request"),
    InvalidMembers: _INVALID,
    errors.UnknownVersion: Kind(422, "No interpreter of that version"),
    errors.NameNotFound: Kind(422, "Name not found"),
    errors.AttributeNotFound: Kind(422, "Attribute not found"),
    errors.NotCallable: Kind(422, "Not callable"),
    errors.ReferenceNotFound: Kind(422, "Reference not found"),
    errors.TooManyReferences: Kind(422, "Too many references"),
    errors.Unauthorized: Kind(401, "Unauthorized"),
    errors.Forbidden: Kind(403, "Forbidden"),
    errors.NotFound: Kind(404, "Not found"),
    errors.SessionNotFound: Kind(404, "Session not found"),
    errors.SessionExpired: Kind(410, "Session expired"),
    errors.DependencyUnresolvable: Kind(422, "Dependencies cannot be resolved"),
    errors.BuildFailed: Kind(422, "Build failed"),
    errors.PayloadTooLarge: Kind(413, "Payload too large"),
    errors.RateLimited: Kind(429, "Too many requests"),
    MethodNotAllowed: Kind(405, "Method not allowed"),
    NotAcceptable: Kind(406, "Not acceptable"),
    RequestTimeout: Kind(408, "Request timeout"),
    HeadTooLarge: Kind(431, "Request head too large"),
    MisdirectedRequest: Kind(421, "Misdirected request"),
    UnsupportedMediaType: Kind(415, "Unsupported media type"),
    errors.Unavailable: _UNAVAILABLE,
    errors.EngineUnavailable: Kind(503, "Engine unavailable"),
    errors.IndexUnavailable: Kind(503, "Package index unavailable"),
    errors.SandboxLost: Kind(503, "Sandbox lost"),
    SandboxReplaced: Kind(503, "Sandbox lost"),
    errors.StoreBusy: Kind(503, "Store busy"),
    errors.SpoolFull: Kind(503, "No room for files"),
    errors.ShuttingDown: Kind(503, "Shutting down"),
    NotReady: Kind(503, "Not ready"),
    TooManyConnections: Kind(503, "Too many connections"),
    errors.Defect: _INTERNAL,
    errors.InvalidTransition: _INTERNAL,
}


def kind_of(error: KodouError) -> Kind:
    """A class that came after the table is of the kind of its nearest ancestor."""
    return next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)


def document(error: KodouError, request_id: str) -> dict[str, object]:
    """The problem's members, JSON-ready. A defect of ours tells its title and the request id, nothing else."""
    kind = kind_of(error)
    told: dict[str, object] = {} if kind is _INTERNAL else {"detail": error.detail, **error.members(), **error.place}
    return {
        "type": TYPE_PREFIX + error.code,
        "title": kind.title,
        "status": kind.status,
        **told,
        "error": True,
        "code": error.code,
        "request_id": request_id,
    }


def render(error: KodouError, request_id: str) -> Rendered:
    """The reply."""
    kind = kind_of(error)
    body = dumps(document(error, request_id))
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if isinstance(error, errors.Unauthorized):
        headers.append((b"www-authenticate", b'Bearer realm="kodou"'))
    if isinstance(error, errors.RateLimited | errors.Unavailable):
        headers.append((b"retry-after", str(max(1, math.ceil(error.after_s))).encode()))
    if isinstance(error, SandboxReplaced):
        headers.append(RESTARTED)
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", error.allow.encode()))
    return kind.status, headers, body


def dumps(members: Mapping[str, object]) -> bytes:
    """JSON in UTF-8 that any parser takes: a lone surrogate in a text that came from outside becomes `?`."""
    with suppress(UnicodeEncodeError):
        return msgspec.json.encode(members)
    return json.dumps(members, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
