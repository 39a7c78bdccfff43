"""What a call came to, as a `CallReply`. Refusals are problem documents here too."""

import asyncio
from typing import Any

from starlette.types import Send

from orchestrator.api import call_replies, parsing
from orchestrator.api.accepting import PROTOBUF, Wanted
from orchestrator.api.problems import Header
from orchestrator.api.protobuf import LARGE_BYTES, MAX_DEPTH, values
from orchestrator.api.protobuf.kodou_pb2 import CallReply, Error
from orchestrator.errors import PayloadTooLarge
from orchestrator.sandboxes import content
from orchestrator.sandboxes.replies import Reply, Typed
from orchestrator.sessions.manager import CallOutcome
from orchestrator.settings import Settings

_TYPE: Header = (b"content-type", PROTOBUF.encode())
_SEPARATORS = (b",", b"[", b"{")
_MOST_INT32 = 2**31 - 1


async def respond(send: Send, outcome: CallOutcome, settings: Settings, *, request_id: str, auth_s: float) -> str:
    """The whole reply; see `call_replies.respond`. A value is held in memory, at most `max_reply_bytes` of its files."""
    told = await _told(outcome.reply, settings)
    if told is None:
        return await call_replies.respond(send, outcome, Wanted(), request_id=request_id, auth_s=auth_s)
    code, body = told
    headers = [*call_replies.receipts_of(outcome, auth_s), _TYPE, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return code


async def _told(reply: Reply, settings: Settings) -> tuple[str, bytes] | None:
    """Code and message; None for a refusal. Raises: SandboxLost: the runner stopped inside the files."""
    told = ("value", reply.body) if isinstance(reply, Typed) else call_replies.json_body(reply)
    if told is None:
        return None
    code, body = told
    try:
        data = await _files(reply, settings) if isinstance(reply, Typed) else {}
        if len(body) + sum(map(len, data.values())) > LARGE_BYTES:
            return code, await asyncio.to_thread(message, body, data, most_values=settings.max_protobuf_fields)
        return code, message(body, data, most_values=settings.max_protobuf_fields)
    except PayloadTooLarge as exc:
        return _failed("reply_too_large", exc.detail)
    except values.TooDeep:
        return _failed(
            "value_not_serializable", f"in Protocol Buffers the value is nested deeper than {MAX_DEPTH} messages"
        )


def _failed(code: str, detail: str) -> tuple[str, bytes]:
    return code, CallReply(error=Error(code=code, detail=detail)).SerializeToString()


async def _files(reply: Typed, settings: Settings) -> values.Files:
    """Raises: PayloadTooLarge, SandboxLost."""
    data = memoryview(await content.read(reply.content, limit_bytes=settings.max_reply_bytes))
    files, at = {}, 0
    for name, size in reply.files:
        files[name] = data[at : at + size]
        at += size
    return files


def message(body: bytes, files: values.Files, *, most_values: int) -> bytes:
    """A reply's JSON and files as a `CallReply`. Raises: PayloadTooLarge, values.TooDeep."""
    _check_count(body, most_values)
    members = values.parse(body)
    reply = CallReply(
        stdout=values.text(members.get("stdout")),
        stderr=values.text(members.get("stderr")),
        truncated=members.get("truncated") is True,
        restarted=members.get("restarted") is True,
        ms=_number(members.get("ms")),
    )
    if members.get("error") is not False:
        _fill_error(reply.error, members)
    else:
        reply.type = values.text(members.get("type"))
        values.fill(reply.value, members.get("value"), files, 1)
    return reply.SerializeToString()


def _fill_error(error: Error, members: dict[str, Any]) -> None:
    for name in ("code", "detail", "field", "type", "repr"):
        setattr(error, name, values.text(members.get(name)))
    exception = members.get("exception")
    if isinstance(exception, dict):
        for name in ("type", "message", "traceback"):
            setattr(error.exception, name, values.text(exception.get(name)))
    for name in ("exit_code", "signal", "pipe", "stage", "item"):
        number = members.get(name)
        if type(number) is int and abs(number) <= _MOST_INT32:
            setattr(error, name, number)


def _number(value: object) -> float:
    return float(value) if type(value) in (int, float) else 0.0  # type: ignore[arg-type]


def _check_count(body: bytes, most: int) -> None:
    """Raises: PayloadTooLarge. A comma or a bracket goes before each value but the first."""
    if sum(body.count(each) for each in _SEPARATORS) <= most:  # nearly always
        return
    if sum(map(len, parsing.outside_strings(body, b"".join(_SEPARATORS)))) > most:
        msg = f"the value has more than {most} parts: take it as JSON, or make arrays of its lists"
        raise PayloadTooLarge(msg, limit_bytes=most)
