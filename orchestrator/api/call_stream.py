"""A call as server-sent events: its output and items as they come, then one `result` or one `error`.

The head goes out with the first of them: a call that ends in a problem before is answered with that, as any other.
"""

import asyncio
from collections.abc import Coroutine
from typing import Protocol

from starlette.types import Send

from orchestrator.api import call_replies, problems, sse
from orchestrator.api.accepting import Wanted
from orchestrator.api.problems import Header
from orchestrator.errors import KodouError
from orchestrator.sandboxes.events import Event, Events, with_members
from orchestrator.sessions.manager import CallOutcome
from orchestrator.unforeseen import ours

_CONTENT_TYPE: Header = (b"content-type", sse.MEDIA_TYPE.encode())
_KEEP_ALIVE = b": still running\n\n"


class Run(Protocol):
    """Makes the call, which tells what there is to tell to `events`."""

    def __call__(self, *, events: Events) -> Coroutine[None, None, CallOutcome]: ...


async def stream(
    send: Send, run: Run, wanted: Wanted, *, request_id: str, auth_s: float, keep_alive_s: float = sse.KEEP_ALIVE_S
) -> str:
    """The whole reply. A client that leaves does not stop the call: what it tells is then sent into nothing.

    Args:    auth_s: seconds from the request's arrival until its key was known. keep_alive_s: the longest silence.
    Returns: the code of what the call came to, for metrics.
    Raises:  KodouError: the call was refused before it told anything.
    """
    events = Events()
    running = asyncio.create_task(run(events=events))
    running.add_done_callback(lambda _: events.end())
    reply = _Stream(send)
    try:
        async for told in sse.with_silences(aiter(events), keep_alive_s):
            if told is not None:
                await reply.events(told)
            elif reply.begun:
                await reply.send(_KEEP_ALIVE)
        outcome = await running
        if reply.begun or call_replies.json_body(outcome.reply) is not None:
            return await _result(reply, outcome, request_id, auth_s)
        return await call_replies.respond(send, outcome, wanted, request_id=request_id, auth_s=auth_s)
    except KodouError as exc:
        return await _error(reply, exc, request_id)
    except Exception as exc:
        return await _error(reply, ours(exc, "a call that is streamed"), request_id)
    finally:
        running.cancel()


class _Stream:
    """The reply on its way out."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def begin(self, headers: list[Header]) -> None:
        self.begun = True
        await self._send({"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE, *headers]})

    async def events(self, told: list[Event]) -> None:
        if not self.begun:
            await self.begin([])
        await self.send(b"".join([sse.sent(event.name, event.body) for event in told]))

    async def send(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, name: str, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": sse.sent(name, data)})


async def _result(reply: _Stream, outcome: CallOutcome, request_id: str, auth_s: float) -> str:
    told = call_replies.json_body(outcome.reply)
    if told is None:
        return await _error(reply, call_replies.refusal(outcome.reply), request_id)
    code, body = told
    if reply.begun:
        body = _with_cold(body, outcome)
    else:
        await reply.begin(call_replies.receipts_of(outcome, auth_s))
    await reply.end("result", body)
    return code


async def _error(reply: _Stream, error: KodouError, request_id: str) -> str:
    if not reply.begun:
        raise error
    await reply.end("error", problems.dumps(problems.document(error, request_id)))
    return error.code


def _with_cold(body: bytes, outcome: CallOutcome) -> bytes:
    """The body with what `Kodou-Cold` would say, had it been known when the head went out."""
    _, cold = call_replies.cold_of(outcome)
    return with_members(body, {"cold": cold.decode()})
