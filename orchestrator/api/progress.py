"""A build's events as server-sent events: `progress` ones, then one `ready` or one `error`."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import anyio

from orchestrator.api import problems
from orchestrator.api.setups import Setup
from orchestrator.errors import KodouError
from orchestrator.sandboxes.backend import BuildEvent
from orchestrator.unforeseen import ours

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE_S = 15.0  # proxies close a silent connection after 30 to 60 s
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
_KEEP_ALIVE = b": still building\n\n"


async def stream(setup: Setup, request_id: str, *, keep_alive_s: float = KEEP_ALIVE_S) -> AsyncIterator[bytes]:
    """The whole stream. Cancelled when the client leaves: the build goes on, and no session stays."""
    finishing: asyncio.Task[Mapping[str, object] | None] | None = None
    delivered = False
    try:
        async for event in _with_silences(setup.build.events(), keep_alive_s):
            yield _KEEP_ALIVE if event is None else _sent("progress", members(event))
        finishing = asyncio.create_task(setup.finish())
        while not (await asyncio.wait({finishing}, timeout=keep_alive_s))[0]:
            yield _KEEP_ALIVE
        yield _sent("ready", finishing.result() or {})
        delivered = True
    except KodouError as exc:
        yield _sent("error", problems.document(exc, request_id))
    except Exception as exc:
        yield _sent("error", problems.document(ours(exc, "a setup that is streamed"), request_id))
    finally:
        if finishing is not None and not delivered:
            finishing.cancel()
            with anyio.CancelScope(shield=True):  # the scope around this one is cancelled already
                await setup.abandon()


def members(event: BuildEvent) -> dict[str, object]:
    """Those that are known."""
    told = {
        "phase": event.phase,
        "package": event.package,
        "bytes": event.bytes,
        "total": event.total,
        "line": event.line,
    }
    return {name: value for name, value in told.items() if value is not None}


async def _with_silences(events: AsyncIterator[BuildEvent], after_s: float) -> AsyncIterator[BuildEvent | None]:
    """The events, and None each time that none came for `after_s`."""
    coming: asyncio.Task[BuildEvent] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(events))
            if not (await asyncio.wait({coming}, timeout=after_s))[0]:
                yield None
                continue
            try:
                event = coming.result()
            except StopAsyncIteration:
                return
            coming = None
            yield event
    finally:
        if coming is not None:
            coming.cancel()


def _sent(event: str, data: Mapping[str, object]) -> bytes:
    # JSON has no line feeds, so one `data:` line is the whole of it, also for readers that know further line ends.
    text = problems.dumps(data).decode().translate(_LINE_ENDS)
    return f"event: {event}\ndata: {text}\n\n".encode()
