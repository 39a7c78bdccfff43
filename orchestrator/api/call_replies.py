"""What a call came to, as an HTTP reply. What a runner sent goes out as the bytes it is."""

from collections.abc import Mapping
from signal import SIGKILL

import msgspec
from starlette.types import Send

from orchestrator.api import problems, receipts
from orchestrator.api.accepting import MEDIA_TYPES, Wanted
from orchestrator.api.call_content import send_content
from orchestrator.api.problems import RESTARTED, Header, NotAcceptable, SandboxReplaced
from orchestrator.errors import (
    AttributeNotFound,
    InvalidRequest,
    KodouError,
    NameNotFound,
    NotCallable,
    ReferenceNotFound,
    TooManyReferences,
)
from orchestrator.sandboxes.replies import (
    InForm,
    NotSerializable,
    Raised,
    RefusedCall,
    Reply,
    TimedOut,
    Typed,
    Value,
    Violation,
    WorkerDied,
)
from orchestrator.sessions.manager import CallOutcome

_VALUE = "value"
# Made in one go, unlike `receipts.server_timing`: each call has one.
_TIMING = b"auth;dur=%.3f, queue;dur=%.3f, run;dur=%.3f"
_TIMING_WITH_START = b"auth;dur=%.3f, queue;dur=%.3f, start;dur=%.3f, run;dur=%.3f"
_JSON: Header = (b"content-type", b"application/json")
_REFUSALS: Mapping[str, type[InvalidRequest]] = {
    error.code: error
    for error in (InvalidRequest, NameNotFound, AttributeNotFound, NotCallable, ReferenceNotFound, TooManyReferences)
}


async def respond(send: Send, outcome: CallOutcome, wanted: Wanted, *, request_id: str, auth_s: float) -> str:
    """The whole reply, streamed where it has content.

    Args:    auth_s: seconds from the request's arrival until its key was known.
    Returns: the code of what the call came to, for metrics.
    Raises:  KodouError: what the reply stands for where it is a refusal. SandboxLost inside content: it is cut short.
    """
    headers = receipts_of(outcome, auth_s)
    told = json_body(outcome.reply)
    if told is not None:
        status, (code, body) = 200, told
        headers += [_JSON, (b"content-length", b"%d" % len(body))]
    elif isinstance(outcome.reply, Typed | InForm):
        await send_content(send, outcome.reply, headers)
        return _VALUE
    else:
        error = refusal(outcome.reply)
        code, (status, own, body) = error.code, problems.render(error, request_id)
        headers = own + [header for header in headers if header not in own]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return code


def receipts_of(outcome: CallOutcome, auth_s: float) -> list[Header]:
    """Headers that tell what the call took, what had to be made for it first, and whether the interpreter is a fresh one."""
    auth_ms, queue_ms, run_ms = auth_s * 1000, outcome.queued_s * 1000, outcome.ran_s * 1000
    if outcome.thawed_s:
        phases = (("auth", auth_s), *phases_of(outcome))
        timing = receipts.server_timing(phases)
    elif outcome.started_s:
        timing = _TIMING_WITH_START % (auth_ms, queue_ms, outcome.started_s * 1000, run_ms)
    else:
        timing = _TIMING % (auth_ms, queue_ms, run_ms)
    headers = [cold_of(outcome), (receipts.SERVER_TIMING, timing)]
    if outcome.restarted:
        return [*headers, RESTARTED]
    match outcome.reply:
        case TimedOut(restarted=True) | WorkerDied(restarted=True):
            headers.append(RESTARTED)
    return headers


def phases_of(outcome: CallOutcome) -> list[tuple[str, float]]:
    """What the call took, by phases and in seconds."""
    once = [(name, took) for name, took in (("thaw", outcome.thawed_s), ("start", outcome.started_s)) if took]
    return [("queue", outcome.queued_s), *once, ("run", outcome.ran_s)]


def cold_of(outcome: CallOutcome) -> Header:
    """What had to be made for a call: one that is spread takes sandboxes, though the session's own is as it was."""
    return receipts.COLD_SESSION if outcome.started_s else receipts.COLD_NONE


def json_body(reply: Reply) -> tuple[str, bytes] | None:
    """Code and body of a reply that is told in JSON, with status 200; None for a refusal, or content."""
    match reply:
        case Value(body=body):
            return _VALUE, body
        case Raised(body=body):
            return "exception", body
        case NotSerializable(body=body):
            return "value_not_serializable", body
        case TimedOut(begun=False):
            return _interrupted("timeout", "its time was over before its turn came: it was not begun", reply)
        case TimedOut():
            return _interrupted("timeout", "the call did not end within its timeout and was stopped", reply)
        case WorkerDied():
            return _interrupted("worker_died", *_ended(reply))
    return None


def refusal(reply: Reply) -> KodouError:
    """The error that a call's reply stands for, where it is one of ours."""
    match reply:
        case RefusedCall(code="not_acceptable"):
            return NotAcceptable(
                reply.detail, available=[MEDIA_TYPES[form] for form in reply.available if form in MEDIA_TYPES]
            )
        case RefusedCall(code, detail, field, stage, item, pipe=pipe):
            places = (("pipe", pipe), ("stage", stage), ("item", item))
            place = {name: number for name, number in places if number is not None}
            return _REFUSALS.get(code, InvalidRequest)(detail, field=field, place=place)
        case _:
            error = SandboxReplaced("the session's sandbox ended under the call; the next call gets a fresh one")
            error.place = reply.place if isinstance(reply, Violation) else {}
            return error


def _interrupted(
    code: str, detail: str, reply: TimedOut | WorkerDied, more: Mapping[str, int | None] | None = None
) -> tuple[str, bytes]:
    restarted = {"restarted": True} if reply.restarted else {}
    return code, msgspec.json.encode(
        {"error": True, "code": code, **restarted, "detail": detail, **(more or {}), **reply.place}
    )


def _ended(reply: WorkerDied) -> tuple[str, WorkerDied, Mapping[str, int | None]]:
    """How the worker ended: a text and the member that says so, if one does."""
    if reply.exit_code is None and reply.signal is None:
        return "the interpreter that ran the call closed its connection, and was ended", reply, {}
    how = f"by signal {reply.signal}" if reply.signal else f"with exit code {reply.exit_code}"
    if reply.signal == SIGKILL:  # a deadline is told apart from this, so few other causes are left
        how += ", most likely because it took more memory than the session has"
    detail = f"the interpreter that ran the call ended {how}"
    return detail, reply, {"signal": reply.signal} if reply.signal else {"exit_code": reply.exit_code}
