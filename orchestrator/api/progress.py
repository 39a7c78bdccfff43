"""A build's events as server-sent events: `progress` ones, then one `ready` or one `error`."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import anyio

from orchestrator.api import problems, sse
from orchestrator.api.setups import Setup
from orchestrator.errors import KodouError
from orchestrator.sandboxes.backend import BuildEvent
from orchestrator.unforeseen import ours

MEDIA_TYPE = sse.MEDIA_TYPE
_KEEP_ALIVE = b": still building\n\n"


async def stream(setup: Setup, request_id: str, *, keep_alive_s: float = sse.KEEP_ALIVE_S) -> AsyncIterator[bytes]:
    """The whole stream. Cancelled when the client leaves: the build goes on, and no session stays."""
    finishing: asyncio.Task[Mapping[str, object] | None] | None = None
    delivered = False
    try:
        async for event in sse.with_silences(setup.build.events(), keep_alive_s):
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


def _sent(event: str, data: Mapping[str, object]) -> bytes:
    return sse.sent(event, problems.dumps(data))
