"""Both ends of the way between owner and worker, in one loop, on a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.types import ASGIApp

from orchestrator.api.admission import Refuser, admit
from orchestrator.workers.edge import OwnerLink
from orchestrator.workers.owner import WorkerLink


@dataclass
class Linked:
    edge: OwnerLink  # the app of a worker
    owner: WorkerLink
    requests: set[asyncio.Task[None]] = field(default_factory=set)  # under way at the owner
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    lost: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def linked(app: ASGIApp, refusal: Refuser = admit) -> AsyncIterator[Linked]:
    """`app` at one end; what a worker gives to uvicorn at the other."""
    loop = asyncio.get_running_loop()
    stopped, lost, requests = asyncio.Event(), asyncio.Event(), set[asyncio.Task[None]]()
    edge = OwnerLink(on_stop=stopped.set, on_lost=lost.set)
    owner = WorkerLink(app, requests, refusal)
    for end, sock in zip((edge, owner), socket.socketpair(), strict=True):
        await loop.create_unix_connection(lambda end=end: end, sock=sock)
    try:
        yield Linked(edge, owner, requests, stopped, lost)
    finally:
        edge.abort()
        async with asyncio.timeout(10):
            await lost.wait()
            await owner.closed.wait()
            if requests:
                await asyncio.wait(requests)
