"""`POST /environment/{language}/call`: the hot path, as a bare ASGI endpoint.

The body is read once. `sessionid` and `timeout` are taken out of it, and the rest goes to the runner as the bytes it came
in; so does the reply on its way back. What msgspec refuses is looked at again, slowly, for a refusal that says why, or
because it holds `NaN` or `Infinity`, which calls may.
"""

import asyncio
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from signal import SIGKILL
from time import perf_counter
from typing import cast

import msgspec
from msgspec import UNSET, Raw, UnsetType
from runner import frames
from starlette.types import Receive, Scope, Send

from orchestrator import telemetry
from orchestrator.api import parsing, problems
from orchestrator.api.credentials import principal_of
from orchestrator.api.middleware import headers_of, request_id
from orchestrator.api.parts import Parts
from orchestrator.api.problems import RESTARTED, Header, InvalidMembers, NotAcceptable, SandboxReplaced
from orchestrator.auth.keys import Principal
from orchestrator.errors import AttributeNotFound, InvalidRequest, KodouError, NameNotFound, NotCallable
from orchestrator.sandboxes.channel import (
    NotSerializable,
    Raised,
    RefusedCall,
    Reply,
    TimedOut,
    Value,
    Violation,
    WorkerDied,
)
from orchestrator.sessions.manager import CallOutcome
from orchestrator.settings import Settings

PATH = "/environment/{language}/call"
MEDIA_TYPE = "application/json"

# A body above this is looked at in a thread when it needs more than msgspec's one pass.
_LARGE_BYTES = 1024 * 1024
_TIMEOUT_TEXT = re.compile(r"[0-9]{1,7}")
_REFUSALS: Mapping[str, type[InvalidRequest]] = {
    error.code: error for error in (InvalidRequest, NameNotFound, AttributeNotFound, NotCallable)
}
_OUTCOMES: Mapping[type[Reply], str] = {
    Value: "value",
    Raised: "exception",
    NotSerializable: "value_not_serializable",
}

Timeout = int | float | str


class CallBody(msgspec.Struct, forbid_unknown_fields=True):
    """A call's members. Those that are `Raw` are the runner's to judge."""

    namepath: Raw
    sessionid: str | UnsetType = UNSET
    timeout: Timeout | UnsetType = UNSET
    args: Raw = Raw(b"")
    kwargs: Raw = Raw(b"")


MEMBERS = CallBody.__struct_fields__
_decode = msgspec.json.Decoder(CallBody).decode


class CallEndpoint:
    """One per app. Raises what `middleware.Edge` turns into problems."""

    path = PATH

    def __init__(self, parts: Parts) -> None:
        self._settings = parts.settings
        self._environments = parts.environments
        self._sessions = parts.sessions
        self._keys = parts.keys
        self._limits = parts.limits
        self._languages: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        try:
            called = await self._call(scope, receive)
        except KodouError as exc:
            telemetry.count_call(exc.code, perf_counter() - started)
            raise
        code, status, headers, body = rendered(called.reply, request_id(scope))
        if called.restarted and RESTARTED not in headers:
            headers.append(RESTARTED)
        telemetry.count_call(code, perf_counter() - started)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _call(self, scope: Scope, receive: Receive) -> CallOutcome:
        principal = await principal_of(scope, self._keys, self._limits.failures)
        principal.require("call")
        self._limits.requests.enter(principal.key_id)
        try:
            return await self._admitted(scope, receive, principal)
        finally:
            self._limits.requests.leave(principal.key_id)

    async def _admitted(self, scope: Scope, receive: Receive, principal: Principal) -> CallOutcome:
        headers = headers_of(scope)
        if scope["query_string"]:
            parsing.check_query(scope)
        language = scope["path_params"]["language"]
        if language not in self._languages:
            await self._environments.offered(language)  # raises NotFound
            self._languages.add(language)
        flags = accepted(headers.get(b"accept", b""))
        parsing.check_headers(headers)
        body = await parsing.read_body(receive)
        sessionid, timeout = await self._members(body)
        if sessionid is UNSET:
            sessionid = _session_header(headers)
        else:
            body = without(sessionid, body)
        timeout_s = timeout_seconds(timeout, self._settings)
        return await self._sessions.call(sessionid, principal, body, flags=flags, timeout_s=timeout_s)

    async def _members(self, body: bytes) -> tuple[str | UnsetType, Timeout | UnsetType]:
        max_depth = self._settings.max_depth
        if len(body) > _LARGE_BYTES and parsing.may_be_deep(body, max_depth=max_depth):
            await asyncio.to_thread(parsing.check_depth, body, max_depth=max_depth)
        else:
            parsing.check_depth(body, max_depth=max_depth)
        try:
            call = _decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            if len(body) > _LARGE_BYTES:
                return await asyncio.to_thread(members_slowly, body, max_depth=max_depth)
            return members_slowly(body, max_depth=max_depth)
        return call.sessionid, call.timeout


def without(sessionid: str, body: bytes) -> bytes:
    """The body with its session id left empty, as tokens are nothing for a sandbox to see.

    One that is there twice is an argument too, the caller's own to hand over: then the body stays as it is.
    """
    token = sessionid.encode("utf-8", "replace")
    return body.replace(token, b"") if token and body.count(token) == 1 else body


def members_slowly(body: bytes, *, max_depth: int) -> tuple[str | UnsetType, Timeout | UnsetType]:
    """What `_decode` reads, by Python's own parser: knows NaN, and where and why a body is wrong.

    Raises: MalformedRequest, InvalidRequest.
    """
    call = parsing.loads(body, max_depth=max_depth, any_number=True)
    if not isinstance(call, dict):
        msg = "the body must be a JSON object"
        raise InvalidRequest(msg)
    faults = [(name[:100], "unknown member") for name in call if name not in MEMBERS]
    if "namepath" not in call:
        faults.append(("namepath", "is missing: what to call"))
    if not isinstance(call.get("sessionid", ""), str):
        faults.append(("sessionid", "must be a string"))
    timeout = call.get("timeout", UNSET)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float | str | UnsetType):
        faults.append(("timeout", "must be milliseconds, as a number or a string of digits"))
    if faults:
        raise InvalidMembers(faults[:20])
    return call.get("sessionid", UNSET), cast("Timeout | UnsetType", timeout)


def timeout_seconds(timeout: Timeout | UnsetType, settings: Settings) -> float:
    """Milliseconds as the client gave them, to seconds. More than the maximum means the maximum.

    Raises: InvalidRequest: not a positive, finite number, nor a string of one to seven digits.
    """
    if timeout is UNSET:
        return settings.call_timeout_ms / 1000
    if isinstance(timeout, str):
        # int() would also take "1_000", " 5 " and digits of other scripts.
        number: float = int(timeout) if _TIMEOUT_TEXT.fullmatch(timeout) else math.nan
    else:
        number = timeout
    if not 0 < number < math.inf:
        msg = "timeout must be milliseconds, as a positive number or a string of at most seven digits"
        raise InvalidRequest(msg, field="timeout")
    return min(number, settings.max_call_timeout_ms) / 1000


@lru_cache(maxsize=256)
def accepted(accept: bytes) -> int:
    """The CALL flags that an Accept header asks for.

    Raises: NotAcceptable: no form of a reply that the client takes; names those there are.
    """
    if not accept:
        return 0
    for part in accept.decode("latin-1").lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        if media_range not in (MEDIA_TYPE, "application/*", "*/*") or re.fullmatch(r"0(\.0*)?", values.get("q", "1")):
            continue
        return frames.NONFINITE_AS_STRINGS if values.get("profile", "").strip('"') == "nonfinite" else 0
    msg = f"a call's reply is {MEDIA_TYPE}, nothing else"
    raise NotAcceptable(msg, available=[MEDIA_TYPE, f"{MEDIA_TYPE}; profile=nonfinite"])


def _session_header(headers: Mapping[bytes, bytes]) -> str:
    sessionid = headers.get(b"x-session-id", b"").decode("latin-1")
    if not sessionid:
        msg = "sessionid is missing: name the session in the body or in X-Session-ID"
        raise InvalidRequest(msg, field="sessionid")
    return sessionid


def rendered(reply: Reply, request_id: str) -> tuple[str, int, list[Header], bytes]:
    """A reply's code (for metrics), status, headers and body."""
    match reply:
        case Value(body) | Raised(body) | NotSerializable(body):
            return _OUTCOMES[type(reply)], 200, _headers(body), body
        case TimedOut():
            return _restarted("timeout", "the call did not end within its timeout and was stopped")
        case WorkerDied(exit_code, signal):
            how = f"by signal {signal}" if signal else f"with exit code {exit_code}"
            if signal == SIGKILL:  # a deadline is told apart from this, so few other causes are left
                how += ", most likely because it took more memory than the session has"
            ended = {"signal": signal} if signal else {"exit_code": exit_code}
            return _restarted("worker_died", f"the interpreter that ran the call ended {how}", ended)
        case RefusedCall(code, detail, field):
            error: KodouError = _REFUSALS.get(code, InvalidRequest)(detail, field=field)
        case Violation():
            error = SandboxReplaced("the session's sandbox ended under the call; the next call gets a fresh one")
    return error.code, *problems.render(error, request_id)


def _restarted(
    code: str, detail: str, more: Mapping[str, int | None] | None = None
) -> tuple[str, int, list[Header], bytes]:
    body = msgspec.json.encode({"error": True, "code": code, "restarted": True, "detail": detail, **(more or {})})
    return code, 200, [*_headers(body), RESTARTED], body


def _headers(body: bytes) -> list[Header]:
    return [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode("ascii"))]
