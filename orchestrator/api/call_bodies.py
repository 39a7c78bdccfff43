"""A call's body: those of its members that are not the runner's to judge, and its form.

Read by msgspec, in one pass that leaves the rest as the bytes it came in. What that refuses is looked at again, slowly, for
a refusal that says why, or because it holds `NaN` or `Infinity`, which calls may.
"""

import asyncio
import math
import re
from typing import cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from orchestrator.api import parsing
from orchestrator.api.problems import InvalidMembers, MalformedRequest
from orchestrator.errors import InvalidRequest
from orchestrator.settings import Settings

# A body above this is looked at in a thread when it needs more than msgspec's one pass.
_LARGE_BYTES = 1024 * 1024
# A body above this is left at what msgspec said: the slow look holds all others up, in a thread too.
_SLOW_BYTES = 8 * 1024 * 1024
_MOST_FAULTS = 20
_NOTHING_TO_CALL = ("namepath", "is missing: what to call")
_MOST_TOLD = 200  # characters of what msgspec said
_TIMEOUT_TEXT = re.compile(r"[0-9]{1,20}")

Timeout = int | float | str


class CallBody(msgspec.Struct, forbid_unknown_fields=True):
    """A call's members. Those that are `Raw` are the runner's to judge."""

    sessionid: str | UnsetType = UNSET
    timeout: Timeout | UnsetType = UNSET
    namepath: Raw | UnsetType = UNSET
    args: Raw | UnsetType = UNSET
    kwargs: Raw | UnsetType = UNSET
    tuple: Raw | UnsetType = UNSET
    keep: Raw | UnsetType = UNSET
    drop: Raw | UnsetType = UNSET


MEMBERS = CallBody.__struct_fields__
decode = msgspec.json.Decoder(CallBody).decode


async def members(body: bytes, *, max_depth: int) -> tuple[str | UnsetType, Timeout | UnsetType]:
    """The session id and the timeout. Raises: MalformedRequest, InvalidRequest."""
    await check(body, max_depth=max_depth)
    try:
        call = decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        if len(body) > _SLOW_BYTES:
            raise _unread(exc) from exc
    else:
        if call.namepath is not UNSET or call.drop is not UNSET:
            return call.sessionid, call.timeout
        if len(body) > _SLOW_BYTES:
            raise InvalidMembers([_NOTHING_TO_CALL])
    if len(body) > _LARGE_BYTES:
        return await asyncio.to_thread(members_slowly, body, max_depth=max_depth)
    return members_slowly(body, max_depth=max_depth)


def _unread(error: Exception) -> InvalidRequest:
    told = str(error)[:_MOST_TOLD]
    if isinstance(error, msgspec.ValidationError):  # JSON of the wrong shape
        return InvalidRequest(told)
    most = f"{_SLOW_BYTES // 1024**2} MiB"
    return MalformedRequest(f'{told}; in a body of over {most}, write NaN and infinities as {{"$float": "NaN"}}')


async def check(body: bytes, *, max_depth: int) -> None:
    """What msgspec does not look at. Raises: MalformedRequest: not UTF-8. InvalidRequest: nested too deep."""
    if len(body) > _LARGE_BYTES:
        await asyncio.to_thread(_check, body, max_depth)
    else:
        _check(body, max_depth)


def _check(body: bytes, max_depth: int) -> None:
    parsing.check_depth(body, max_depth=max_depth)
    parsing.check_utf_8(body)


def members_slowly(body: bytes, *, max_depth: int) -> tuple[str | UnsetType, Timeout | UnsetType]:
    """What `decode` reads, by Python's own parser: knows NaN, and where and why a body is wrong.

    Raises: MalformedRequest, InvalidRequest.
    """
    call = parsing.loads(body, max_depth=max_depth, any_number=True)
    if not isinstance(call, dict):
        msg = "the body must be a JSON object"
        raise InvalidRequest(msg)
    faults = [(name[:100], "unknown member") for name in call if name not in MEMBERS]
    if "namepath" not in call and "drop" not in call:
        faults.append(_NOTHING_TO_CALL)
    if not isinstance(call.get("sessionid", ""), str):
        faults.append(("sessionid", "must be a string"))
    timeout = call.get("timeout", UNSET)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float | str | UnsetType):
        faults.append(("timeout", "must be milliseconds, as a number or a string of digits"))
    if faults:
        raise InvalidMembers(faults[:_MOST_FAULTS])
    return call.get("sessionid", UNSET), cast("Timeout | UnsetType", timeout)


def timeout_seconds(timeout: Timeout | UnsetType, settings: Settings) -> float:
    """Milliseconds as the client gave them, to seconds. More than the maximum means the maximum.

    Raises: InvalidRequest: not a positive, finite number, nor a string of one to twenty digits.
    """
    if timeout is UNSET:
        return settings.call_timeout_ms / 1000
    if isinstance(timeout, str):
        # int() would also take "1_000", " 5 " and digits of other scripts.
        number: float = int(timeout) if _TIMEOUT_TEXT.fullmatch(timeout) else math.nan
    else:
        number = timeout
    if not 0 < number < math.inf:
        msg = "timeout must be milliseconds, as a positive number or a string of at most twenty digits"
        raise InvalidRequest(msg, field="timeout")
    return min(number, settings.max_call_timeout_ms) / 1000


def without(sessionid: str, body: bytes) -> bytes:
    """The body with its session id left empty, as tokens are nothing for a sandbox to see.

    One that is there twice is an argument too, the caller's own to hand over: then the body stays as it is.
    """
    token = sessionid.encode("utf-8", "replace")
    return body.replace(token, b"") if token and body.count(token) == 1 else body
