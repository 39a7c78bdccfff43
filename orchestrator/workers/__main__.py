"""A worker: `python -I -m orchestrator.workers <socket to the owner> <listener> <counts> <its number> <of how many> <settings>`.

It has no life of its own, and ends with the owner; by SIGTERM or `STOP`, with its last connection.
"""

import asyncio
import json
import logging
import os
import socket
import sys

import uvicorn
import uvloop

from orchestrator import telemetry
from orchestrator.api.connection import configured, sweep
from orchestrator.settings import Settings
from orchestrator.workers import frames
from orchestrator.workers.connection import connections
from orchestrator.workers.counts import Counts
from orchestrator.workers.edge import OwnerLink

OWNER_LOST = 1


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, link: OwnerLink) -> None:
        super().__init__(config)
        self._link = link

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._link.write(frames.READY)


async def _serve(
    owner: socket.socket, listener: socket.socket, counts: Counts, number: int, settings: Settings
) -> None:
    telemetry.configure_logging(settings)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the owner tells of starts and ends
    stopping = asyncio.Event()
    link = OwnerLink(on_stop=stopping.set, on_lost=lambda: os._exit(OWNER_LOST))
    # No time to shut down within: the owner keeps it, and ends workers that take longer.
    config = configured(link, settings, http=connections(settings, counts, number), lifespan="off")
    server = _Server(config, link)
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=owner)

    def unread_bound(own: int) -> int:
        others = counts.unread_bytes(number, own) - own
        return settings.max_unread_bytes - others

    async def stop() -> None:
        await stopping.wait()
        server.should_exit = True

    async with asyncio.TaskGroup() as tasks:
        beside = [tasks.create_task(sweep(server, unread_bound)), tasks.create_task(stop())]
        await server.serve([listener])
        for task in beside:
            task.cancel()
    os._exit(0)


def main() -> None:
    owner, listener, counts, number, workers = map(int, sys.argv[1:6])
    settings = Settings(**json.loads(sys.argv[6]))
    page = Counts(counts, workers)
    uvloop.run(_serve(socket.socket(fileno=owner), socket.socket(fileno=listener), page, number, settings))


if __name__ == "__main__":
    main()
